"""The command line as a user calls it: one process per call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import graphalign


def run(*arguments: str, code: str = "from graphalign.cli import main; main()") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(graphalign.__file__).parents[1]),
        "PYTHONWARNINGS": "error",
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "GRAPHALIGN_PEERS": "",
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_help_names_the_commands():
    result = run("--help")
    assert result.returncode == 0
    assert "demo" in result.stdout
    assert "bench" in result.stdout
    assert "--version" in result.stdout
    assert result.stderr == ""


def test_help_of_demo_names_its_options():
    result = run("demo", "--help")
    assert result.returncode == 0
    for option in ("--out", "--seed", "--quick"):
        assert option in result.stdout


def test_help_of_bench_names_its_options_and_suites():
    result = run("bench", "--help")
    assert result.returncode == 0
    for word in ("--peers", "--install", "--out", "--repetitions", "--seed", "--quick", "GRAPHALIGN_PEERS", "methods: Our methods"):
        assert word in result.stdout


@pytest.mark.parametrize("command", [["--help"], ["bench", "--help"], ["zoo", "--help"]])
def test_help_does_not_load_torch(command):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('loaded:', *sorted({'torch', 'scipy', 'matplotlib', 'sklearn', 'hydra'} & sys.modules.keys())))\n"
        "from graphalign.cli import main; main()"
    )
    result = run(*command, code=code)
    assert result.returncode == 0
    assert result.stdout.rstrip().splitlines()[-1].strip() == "loaded:"


def test_version():
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"graphalign {graphalign.__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmeo"], "No such command 'dmeo'"),
        (["demo", "--seed", "-1"], "greater than or equal to 0"),
        (["bench"], "Missing argument 'suite'"),
        (["bench", "metods"], "found 'metods', expected one of methods"),
        (["bench", "methods", "--repetitions", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_usage_is_explained(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [["demo"], ["bench", "methods"]])
def test_an_unusable_folder_is_one_message_before_any_work(tmp_path, command):
    blocked = tmp_path / "file"
    blocked.write_text("keep me")
    result = run(*command, "--quick", "--out", str(blocked))
    assert result.returncode == 1
    assert f"error: {blocked} cannot be written" in result.stderr
    assert "--out" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert blocked.read_text() == "keep me"


@pytest.mark.parametrize("arguments", [["--install"], ["--peers", "nowhere"]])
def test_benchmarks_without_their_peers_say_what_to_do(arguments):
    result = run("bench", "methods", "--quick", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "--peers" in result.stderr
    assert "--install" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_population_is_trained_and_found_again(tmp_path):
    arguments = ["zoo", "--out", str(tmp_path), "only=train_siren", "part=1/2", "sections.train_siren.recipe.epochs=3"]
    for _ in range(2):
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"8 networks in 2 groups: {tmp_path / 'manifest.json'}\n"
    assert len(list(tmp_path.glob("train_siren/*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["part=2"], 1, "error: part: found 2, expected i/n such as 1/2"),
        (["--config", "huge"], 1, "error: config: found 'huge', expected one of digits, full, small"),
        (["only=x"], 1, "error: only: found 'x', expected one of train_mlp"),
        (["sections.train_mlp.split=dev"], 1, "train_mlp: split: found 'dev', expected one of train, validation, test"),
    ],
)
def test_a_population_that_cannot_be_is_refused(tmp_path, arguments, code, message):
    result = run("zoo", "--out", str(tmp_path / "out"), *arguments)
    assert result.returncode == code
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert "Traceback" not in result.stderr
