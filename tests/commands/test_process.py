"""The command line as a process: exit codes, streams, interruption, completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import graphalign

CODE = "import sys; sys.argv[0] = 'graphalign'; from graphalign.cli import main; main()"


def start(*arguments: str, code: str = CODE, **environment: str) -> subprocess.Popen[str]:
    known = {**os.environ, "PYTHONPATH": str(Path(graphalign.__file__).parents[1]), "COLUMNS": "100", "NO_COLOR": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # processes in the background inherit that it is ignored
    )  # fmt: skip


def test_help_of_every_command_loads_no_torch():
    code = f"import atexit, sys; atexit.register(lambda: print('loaded:', *sorted({{'torch', 'numpy', 'yaml'}} & sys.modules.keys()))); {CODE}"
    out, _ = start("align", "--help", code=code).communicate(timeout=300)
    assert "--permutations" in out
    assert out.splitlines()[-1].strip() == "loaded:"


def test_interruption_leaves_nothing_behind(folder):
    before = sorted(folder.iterdir())
    process = start("align", "a.safetensors", "b.safetensors", "--method", "sinkhorn", "--set", "steps=100000", "-o", "out.safetensors", "-v")
    assert process.stderr is not None
    while "aligning" not in (line := process.stderr.readline()):
        assert line, "it ended early"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert sorted(folder.iterdir()) == before


def test_a_failure_is_one_message_and_exit_code_1(folder):
    process = start("align", "a.safetensors", "gone.safetensors", "-o", "out.safetensors")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out == ""
    assert err.startswith("error: gone.safetensors does not exist")
    assert len(err.splitlines()) == 1


def test_shells_complete_commands():
    process = start(_GRAPHALIGN_COMPLETE="complete_bash", COMP_WORDS="graphalign al", COMP_CWORD="1")
    out, _ = process.communicate(timeout=300)
    assert out.split() == ["align"]
