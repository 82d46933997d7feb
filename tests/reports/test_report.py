"""Reports: numbers that are right, pages that need nothing else, names that may hold anything."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphalign import group
from graphalign.alignment import Alignment
from graphalign.averaging import average
from graphalign.connectivity import barrier
from graphalign.converters.trace import trace
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.files import save_state
from graphalign.labels import label, labels, visible
from graphalign.reports import Report, alignment_report, merge_report

pytest.importorskip("matplotlib")
X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
DATA = [(X[:25], torch.arange(25) % 3), (X[25:], torch.arange(15) % 3)]
NASTY = "<script>alert(1)</script> & $\\frac$ \u202e层\x00"


def network(seed: int = 0, hidden: tuple[int, ...] = (8, 7), norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        sizes = (5, *hidden)
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 3)).eval()


def scrambled(model: nn.Module, seed: int = 1) -> tuple[nn.Module, Alignment]:
    """A network whose units are in another order, and the alignment that brings them back."""
    spec = trace(model, X[:2])
    element = group.random_element(spec, torch.Generator().manual_seed(seed))
    return group.apply_to_module(spec, element, model), Alignment(spec, group.inverse(element), "planted", seed, 0.5)


@cache
def planted() -> tuple[nn.Module, nn.Module, Alignment, Report]:
    a = network()
    b, alignment = scrambled(a)
    return a, b, alignment, alignment_report(a, b, alignment, data=DATA, example_input=X[:2], points=5)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_planted_alignment_is_reported_as_perfect() -> None:
    a, b, alignment, report = planted()
    (pair,) = report.pairs
    assert pair.distance.after == 0.0 < pair.distance.before
    assert pair.verification < 1e-12
    assert pair.parameters == sum(p.numel() for p in a.parameters())
    for cell in pair.cells:
        alive = np.abs(cell.after) > 0
        np.testing.assert_allclose(cell.after[alive], 1.0, atol=1e-5)
        assert cell.nearest == pytest.approx(alive.mean())
        assert cell.silent == ((~alive).sum(), (~alive).sum())
        np.testing.assert_allclose(cell.similarity_after.diagonal(), cell.after[cell.slots], atol=0)
        np.testing.assert_allclose(cell.similarity_before.diagonal(), cell.before[cell.slots], atol=0)
    assert pair.curves is not None
    np.testing.assert_allclose(pair.curves[0].losses, barrier(a, b, DATA, points=5).losses, rtol=1e-6)
    np.testing.assert_allclose(pair.curves[1].losses, barrier(a, a, DATA, points=5).losses, rtol=1e-5)
    moved = pair.agreements["identity"]
    assert moved.total == pytest.approx(1 - alignment.moved)


def test_distances_are_measured_against_those_of_unrelated_tensors() -> None:
    a, _, _, report = planted()
    assert report.pairs[0].scales["0.weight"] == pytest.approx(2**0.5 * float(a.state_dict()["0.weight"].norm()))


def test_the_page_needs_nothing_else_and_says_how_it_came_about(tmp_path: Path) -> None:
    report = planted()[-1]
    report.save(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") or name in ("href", "srcset") for name in attributes)
        if "src" in attributes:
            kind, _, content = str(attributes["src"]).partition(",")
            assert kind == "data:image/png;base64"
            assert base64.b64decode(content).startswith(b"\x89PNG")
    assert not re.search(r"https?://|url\(|@import", text)
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    for word in (f"torch {torch.__version__}", "planted, seed 1", "network output", "0.weight", "loss barrier"):
        assert word in page.text
    with pytest.raises(InvalidInput, match="exists already; pass force=True"):
        report.save(tmp_path / "r.html")
    report.save(tmp_path / "r.html", force=True)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_names_from_files_are_shown_and_never_interpreted(recwarn: pytest.WarningsRecorder) -> None:
    inner = network()
    model = nn.Module()
    model.add_module(NASTY.replace(".", ""), inner)
    model.forward = inner.forward  # type: ignore[method-assign]
    b, alignment = scrambled(inner)
    state = {f"{NASTY}{key}": value for key, value in inner.state_dict().items()}
    other = {f"{NASTY}{key}": value for key, value in b.state_dict().items()}
    from graphalign.converters.chain import chain_spec

    spec = chain_spec(state)
    renamed = Alignment(spec, dict(zip((c.name for c in spec.cells), alignment.permutations.values(), strict=True)), NASTY)
    text = alignment_report(state, other, renamed, data=DATA, points=3, names=(NASTY, "B"), title=NASTY, compared={NASTY: renamed}).html()
    assert not any(tag == "script" for tag, _ in Page(text).tags)
    assert "<script>" in Page(text).text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "层" in text
    assert not recwarn.list


def test_labels_are_short_and_drawable() -> None:
    assert visible("a\nb\u202ec\ud800", 99) == "a\\nb\\u202ec\\ud800"
    assert visible("abcdefghij", 5) == "ab…ij"
    assert label("x" * 99) == "x" * 15 + "…" + "x" * 14
    assert label("层.weight") == "\N{WHITE SQUARE}.weight"
    assert label("model.layers.0.self_attn.q_proj.weight") == "…0.self_attn.q_proj.weight"
    assert label("model." + "x" * 40) == "model." + "x" * 9 + "…" + "x" * 14
    names = ["encoder.layers.0.self_attn.q_proj.weight", "decoder.layers.0.self_attn.q_proj.weight", "encoder.layers.1.self_attn.q_proj.weight"]
    assert labels(names) == ["encoder.layers.….q_proj.weight", "decoder.layers.….q_proj.weight", "…1.self_attn.q_proj.weight"]
    assert labels(names, 40) == names


def test_without_data_there_are_no_curves_and_the_report_says_so() -> None:
    a, b, alignment, _ = planted()
    for data in (None, [X]):
        report = alignment_report(a, b, alignment, data=data, example_input=X[:2])
        assert report.pairs[0].curves is None
        assert "interpolation" not in report.figures()
        assert "No curves" in report.html()
    assert "random inputs (seed 0)" in alignment_report(a, b, alignment, example_input=X[:2]).html()


def test_interpolated_statistics_are_pointed_out() -> None:
    a = network(norm=True)
    b, alignment = scrambled(a)
    found = [
        alignment_report(a, b, alignment, data=DATA, example_input=X[:2], points=3, reset_batch_norm=reset).html() for reset in (None, DATA)
    ]
    assert ["Running statistics" in text for text in found] == [True, False]


def test_large_networks_are_drawn_in_part_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import graphalign.reports.figures as figures
    import graphalign.reports.page as page
    import graphalign.reports.pair as pair

    for module, name, value in ((figures, "DRAWN_CELLS", 2), (figures, "DRAWN_ROWS", 3), (page, "DRAWN_ROWS", 3), (page, "LISTED", 2), (pair, "DRAWN_UNITS", 4)):
        monkeypatch.setattr(module, name, value)
    a = network(hidden=(6, 5, 6, 7))
    report = alignment_report(a, *scrambled(a), example_input=X[:2])
    assert [len(cell.slots) for cell in report.pairs[0].cells] == [4, 4, 4, 4]
    text = " ".join(report.html().split())
    for sentence in (
        "2 of 4 layers are drawn, evenly spaced; of layers with more than 4 units 4 are drawn", "3 of 4 layers are drawn, evenly spaced.",
        "3 of 10 tensors are drawn, evenly spaced.", "… and 2 more.", "… and 8 more.",
    ):  # fmt: skip
        assert sentence in text
    drawn = report.figures()["similarity"]
    assert sum(bool(axes.images) for axes in drawn.axes) == 4


def test_figures_are_written_for_papers(tmp_path: Path) -> None:
    report = planted()[-1]
    paths = report.save_figures(tmp_path)
    assert [p.name for p in paths] == ["interpolation.pdf", "cells.pdf", "similarity.pdf", "distance.pdf"]
    assert all(p.read_bytes().startswith(b"%PDF") for p in paths)
    with pytest.raises(InvalidInput, match="interpolation.pdf.*exist already; pass force=True"):
        report.save_figures(tmp_path)
    with pytest.raises(InvalidInput, match="found kind='gif', expected one of png, pdf, svg"):
        report.save_figures(tmp_path, "gif")


def test_numbers_are_ready_for_json() -> None:
    report = planted()[-1]
    entry = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert entry["pairs"][0]["summary"]["distance_after"] == 0.0
    assert entry["pairs"][0]["method"] == "planted"
    assert len(entry["pairs"][0]["curves"]["before"]["losses"]) == 5
    assert entry["pairs"][0]["fixed"] == [{"name": "4", "count": 3, "reason": "network output"}]
    assert repr(report) == "Report('Alignment of network B to network A', 1 pair)"
    assert "<td>0</td>" in report._repr_html_()


def test_files_give_their_names(tmp_path: Path) -> None:
    a, b, _, _ = planted()
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, model in zip(paths, (a, b), strict=True):
        save_state(model.state_dict(), path)
    from graphalign.pairwise import align

    report = alignment_report(*paths, align(*paths, method="weight"))
    assert report.title == "Alignment of b.safetensors to a.safetensors"
    assert report.pairs[0].verification < 1e-12


def test_a_merge_has_a_part_per_network_and_the_scores_of_all() -> None:
    models = [network(0), *(scrambled(network(0), seed)[0] for seed in (1, 2))]
    orders = [scrambled(network(0), seed)[1] for seed in (1, 2)]
    merged = network(3)
    merged.load_state_dict(average([models[0].state_dict(), *(o.apply(dict(m.state_dict())) for o, m in zip(orders, models[1:], strict=True))], [0.5, 0.25, 0.25]))
    report = merge_report(models, orders, merged, weights=[0.5, 0.25, 0.25], data=DATA, example_input=X[:2], points=3, names=["x", "y", "z"])
    assert [pair.names for pair in report.pairs] == [("x", "y"), ("x", "z")]
    assert list(report.scores) == ["x", "y", "z", "merged"]
    assert report.scores["merged"].loss == pytest.approx(report.scores["x"].loss, rel=1e-5)
    assert report.weights == {"x": 0.5, "y": 0.25, "z": 0.25}
    assert set(report.figures()) == {f"{n}_{i}" for n in ("interpolation", "cells", "similarity", "distance") for i in (1, 2)}
    text = Page(report.html()).text
    assert "1. y in the order of x" in text
    assert "2. z in the order of x" in text
    states: list[dict[str, Tensor]] = [dict(m.state_dict()) for m in models]
    alone = merge_report(states, orders, dict(merged.state_dict()), data=DATA, points=3)
    assert alone.scores["merged"].loss == pytest.approx(report.scores["merged"].loss, rel=1e-6)


def bad_merge(**changes: Any) -> Callable[[], Any]:
    a, b, alignment, _ = planted()
    settings = {"models": [a, b], "alignments": [alignment], "merged": a, "example_input": X[:2], **changes}
    return lambda: merge_report(**settings)


BAD: dict[str, tuple[Callable[[], Callable[[], Any]], type[Exception], str]] = {
    "too many alignments": (
        lambda: bad_merge(alignments=[1, 2], reference=7, names=["a"]), InvalidInput,
        r"found 2 alignments for 2 models.*found reference=7.*found names \['a'\], expected 2 different ones",
    ),
    "the name of the result": (lambda: bad_merge(names=["a", "merged"]), InvalidInput, "none of them 'merged'"),
    "no alignment": (lambda: bad_merge(alignments=["weight"]), InvalidInput, "found str, expected an Alignment"),
    "another architecture": (
        lambda: lambda: alignment_report(network(), network(1), scrambled(network(hidden=(8, 6)))[1], example_input=X[:2]),
        SpecMismatch, "alignment",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()()
