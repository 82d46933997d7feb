"""The table of traps names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_trap_has_its_test() -> None:
    text = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 50
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_every_trap_that_is_tested_is_in_the_table() -> None:
    text = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"def (test_trap_\w+)", file.read_text(encoding="utf-8")):
            assert name in text, f"{file.name}::{name}"
