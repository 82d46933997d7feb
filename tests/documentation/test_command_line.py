"""The page about the command line has every command and option."""

import re

from typer.main import get_command

from graphalign.cli import app
from graphalign.documentation.command_line import command_line_page
from tests.pages import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    assert page == command_line_page(), "run: python -m graphalign.documentation command_line"


def test_every_command_and_option_is_there() -> None:
    page = command_line_page()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        section = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, name
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help" and not parameter.hidden:
                assert f"`{parameter.opts[0]}`" in section[1], f"{name} {parameter.opts[0]}"
