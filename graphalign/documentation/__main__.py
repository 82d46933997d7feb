"""`python -m graphalign.documentation [WHAT ...] [--docs FOLDER]`: writes generated pages and pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from graphalign.documentation.command_line import command_line_page
from graphalign.documentation.comparison import comparison_page
from graphalign.documentation.figures import draw_figures
from graphalign.documentation.pictures import draw_pictures
from graphalign.errors import GraphAlignError
from graphalign.files import atomic_write

PAGES = {"compare": comparison_page, "command_line": command_line_page}
"""Pages by name: the text of each, from the folder of the documentation."""
PICTURES: dict[str, Callable[[Path], list[Path]]] = {"pictures": lambda docs: draw_pictures(docs / "images"), "figures": draw_figures}
"""Pictures by name: draws them, from the folder of the documentation; those of the concepts, and those of the results."""


def main(arguments: list[str] | None = None) -> None:
    """Writes what is named, everything if nothing is; errors end with exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m graphalign.documentation", description="Write generated pages and pictures.")
    parser.add_argument("what", nargs="*", choices=[*PAGES, *PICTURES], metavar="WHAT", help=f"{', '.join([*PAGES, *PICTURES])}; all if absent")
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="the documentation (docs)")
    options = parser.parse_args(arguments)
    try:
        for name in options.what or [*PAGES, *PICTURES]:
            if name in PICTURES:
                written = PICTURES[name](options.docs)
            else:
                written = [options.docs / f"{name}.md"]
                with atomic_write(written[0], force=True) as draft:
                    draft.write_text(PAGES[name](options.docs), encoding="utf-8")
            print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    except GraphAlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
