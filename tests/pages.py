"""The code blocks of the pages of the documentation, and how they are run.

A block runs if it is fenced as `python` or `sh`. Blocks of a page share one namespace and one folder, in their order. The words after
the language say what else is to be known of a block: `skip=REASON` that it is not run, `file=NAME` that it is a file which later blocks read,
and `output` that the block before it prints it, up to numbers.
"""

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from markdown_it import MarkdownIt
from torch import nn

import graphalign
from graphalign.data import digits, loader

ROOT = Path(__file__).parent.parent
SKIPPED = {
    "data": "image data sets that are not embedded",
    "install": "installs packages",
    "long": "takes more than seconds",
    "machine": "a GPU, a cluster, several processes or far more memory",
    "other": "another program",
    "sketch": "stands for code of the reader",
}
NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")
ELSEWHERE = {"docs/new_operator.md": "tests/converters/test_unsupported.py"}
"""Pages whose code another test runs: torch forgets no operator, so it runs once per process."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, the words after it, its text."""

    page: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def runs(self) -> bool:
        return self.language in ("python", "sh") and self.skipped is None and not self.printed

    @property
    def printed(self) -> bool:
        return "output" in self.words

    @property
    def skipped(self) -> str | None:
        return self.word("skip")

    def word(self, name: str) -> str | None:
        """What stands after "NAME=" in the first line."""
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")), None)


def pages() -> list[str]:
    """Every page that a person wrote, by its path from the root; results are tables, written by commands."""
    found = [ROOT / "README.md", ROOT / "graphalign" / "pretrained" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found if not {"results", "_site"} & set(path.relative_to(ROOT).parts)]


def blocks(page: str) -> Iterator[Block]:
    """Its code blocks in their order, those indented by four spaces too."""
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language, *words = token.info.split() or [""]
            yield Block(page, token.map[0] + 1, language, tuple(words), token.content)


def namespace() -> dict[str, Any]:
    """The names that pages use without saying where they come from: two networks, an input, data."""
    torch.manual_seed(0)
    model_a, model_b = network(), network()
    data = list(loader(torch.utils.data.TensorDataset(*digits("test")[:64]), 32))
    return {
        "__name__": "page", "ga": graphalign, "torch": torch, "nn": nn, "model_a": model_a, "model_b": model_b, "x": digits("test")[:1][0],
        "train_loader": data, "test_loader": data,
    }  # fmt: skip


def network() -> nn.Module:
    """A small CNN with BatchNorm, in eval mode."""
    first = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(12, 10)).eval()


def run(page: str) -> tuple[dict[str, Any], str]:
    """Runs the blocks of a page in the current folder; returns its names and what it printed.

    Raises:
        AssertionError: a block prints something else than the page says.
    """
    with torch.random.fork_rng(devices=[]):
        names = namespace()
        printed, last = "", ""
        for block in blocks(page):
            if block.printed:
                assert comparable(last) == comparable(block.text), f"{page}:{block.line}: printed\n{last}"
            elif (file := block.word("file")) is not None:
                Path(file).write_text(block.text, encoding="utf-8")
            elif block.runs:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    execute(block, names)
                last = out.getvalue()
                printed += last
    return names, printed


def comparable(text: str) -> list[str]:
    """The words of a text with numbers made equal: those depend on the machine. Rules of tables are as long as their numbers."""
    return [NUMBER.sub("#", word) for line in text.splitlines() for word in line.split() if not re.fullmatch(r"[-:─━|]+", word)]


def execute(block: Block, names: dict[str, Any]) -> None:
    if block.language == "python":
        code = "\n" * block.line + block.text  # so that tracebacks name the lines of the page
        exec(compile(code, block.page, "exec"), names)
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.removeprefix("$ "), comments=True):
            command(words, f"{block.page}:{block.line}")


def command(words: list[str], where: str) -> None:
    """Runs `graphalign ...` or `python -m MODULE ...` in this process."""
    if words[:2] == ["python", "-m"]:
        words = words[2:]
    elif words[0] != "graphalign":
        raise AssertionError(f"{where}: {words[0]} is not a command of this project; mark the block skip=other")
    before, sys.argv = sys.argv, words.copy()
    code: Any = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert not code, f"{where}: {shlex.join(words)} ended with {code}"
