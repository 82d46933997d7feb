"""Names from files, made safe to show: they may hold anything, and be of any length."""

from __future__ import annotations

from functools import cache

LONGEST = 30
"""Characters of a name in a figure; a longer one loses its middle."""


def visible(text: str, longest: int) -> str:
    """A text on one line without characters that cannot be seen or that turn the direction of writing, shortened in the middle."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(shown) <= longest:
        return shown
    kept = longest - 1
    return shown[: (kept + 1) // 2] + "…" + shown[len(shown) - kept // 2 :]


def label(text: str, longest: int = LONGEST) -> str:
    """The text for a figure: as `visible`, and without characters that its font lacks."""
    known = _characters()
    return visible("".join(c if not c.isprintable() or ord(c) in known else "\N{WHITE SQUARE}" for c in text), longest)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
