"""What the pages show can be run, and what the README points at is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import graphalign
from graphalign.methods import METHODS
from graphalign.methods.matched_averaging import MatchedAveraging
from tests.pages import ELSEWHERE, ROOT, SKIPPED, blocks, pages, run

RUN = [page for page in pages() if page not in ELSEWHERE and any(block.runs for block in blocks(page))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a page, once."""
    done: dict[str, tuple[dict[str, Any], str, Path]] = {}

    def once(page: str) -> tuple[dict[str, Any], str, Path]:
        if page not in done:
            folder = tmp_path_factory.mktemp("page")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                done[page] = (*run(page), folder)
        return done[page]

    return once


@pytest.mark.parametrize("page", RUN)
def test_the_code_of_a_page_runs(ran: Any, page: str) -> None:
    ran(page)


def test_the_readme_leaves_what_it_promises(ran: Any) -> None:
    names, printed, folder = ran("README.md")
    assert {"barrier.png", "alignment.safetensors", "b_aligned.safetensors"} <= {p.name for p in folder.iterdir()}
    difference = float(next(line for line in printed.splitlines() if re.fullmatch(r"\d[\d.e+-]*", line)))
    assert difference <= 1e-10
    x = names["x"].double()
    aligned, original = (names[name].double().eval() for name in ("aligned_b", "model_b"))
    torch.testing.assert_close(aligned(x), original(x), rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("page", pages())
def test_a_block_that_is_not_run_says_why(page: str) -> None:
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.language, f"{where}: name the language of the block; what is not run is text, or has skip=REASON"
        assert block.language not in ("bash", "shell", "console", "pycon"), f"{where}: commands are sh, without what they print"
        assert block.skipped is None or block.skipped in SKIPPED, f"{where}: skip={block.skipped}, expected one of {', '.join(SKIPPED)}"


def test_most_blocks_run() -> None:
    found = [block for page in pages() for block in blocks(page)]
    ran, skipped = sum(block.runs for block in found), sum(block.skipped is not None for block in found)
    assert ran > skipped, f"{ran} blocks run, {skipped} are skipped: {[f'{b.page}:{b.line} {b.skipped}' for b in found if b.skipped]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint('barrier', 0.5)\n```\n\n```text output\narea 0.5\n```\n", "printed"),
        ("```python\nraise AssertionError('in the page')\n```\n", "in the page"),
        ("```sh\ngraphalign nonsense\n```\n", "graphalign nonsense ended with 2"),
        ("```sh\nrm something\n```\n", "rm is not a command of this project"),
    ],
    ids=["output", "code", "exit code", "other command"],
)
def test_a_page_that_is_wrong_fails(tmp_path: Path, text: str, message: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=message):
        run(str(page))


def test_numbers_of_an_output_may_differ(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('barrier', 0.5, 'of', 1e-16)\n```\n\n```text output\nbarrier 12 of 3.0\n```\n", encoding="utf-8")
    assert run(str(page))[1] == "barrier 0.5 of 1e-16\n"


def test_every_method_has_a_page_with_formula_and_source() -> None:
    settings = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name, method in {**METHODS, "matched_averaging": MatchedAveraging}.items():
        kind = getattr(method, "settings", method)
        assert f"{kind.__module__}.{kind.__qualname__}\n" in settings, name
        if name != "naive":
            page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
            assert page.count("$$") >= 2, name
            assert "**Source" in page, name


def test_pages_that_another_test_runs_are_run_there() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_links_of_the_readme_point_at_files() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).is_file(), target


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if ".[test]" in line)
    install, _, tests = command.partition(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install in script
    assert re.search(rf"^{re.escape(tests)}$", script, re.MULTILINE)


def test_the_api_page_has_every_public_name_once() -> None:
    named = re.findall(r"^\.\. auto\w+:: graphalign\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(set(graphalign.__all__) - {"__version__"})
