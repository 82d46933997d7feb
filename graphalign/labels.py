"""Names from files, made safe to show: they may hold anything, and be of any length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

LONGEST = 30
"""Characters of a name in a figure; of a longer path the last parts are shown."""


def visible(text: str, longest: int) -> str:
    """A text on one line without characters that cannot be seen or that turn the direction of writing, shortened in the middle."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(shown) <= longest:
        return shown
    kept = longest - 1
    return shown[: (kept + 1) // 2] + "…" + shown[len(shown) - kept // 2 :]


def label(text: str, longest: int = LONGEST) -> str:
    """The text for a figure: on one line, without characters that cannot be seen or that its font lacks.

    Of a path with more than `longest` characters the last parts are left, "layers.0.fc.weight" of "model.encoder.layers.0.fc.weight"; if not even
    one fits, the text loses its middle.
    """
    shown = _drawable(text)
    kept = ""
    for part in reversed(shown.split(".") if len(shown) > longest else []):
        if len(kept) + len(part) + 2 > longest:
            break
        kept = f".{part}{kept}"
    return f"…{kept[1:]}" if kept else visible(shown, longest)


def labels(texts: Sequence[str], longest: int = LONGEST) -> list[str]:
    """As `label`, for texts that are shown together: those of which the same would be left lose their middle."""
    found = [label(text, longest) for text in texts]
    times = Counter(found)
    return [short if times[short] == 1 else visible(_drawable(text), longest) for text, short in zip(texts, found, strict=True)]


def _drawable(text: str) -> str:
    known = _characters()
    return visible("".join(c if not c.isprintable() or ord(c) in known else "\N{WHITE SQUARE}" for c in text), 6 * len(text) + 6)


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
