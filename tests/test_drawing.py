"""Layer drawings: boxes do not touch, colours follow cells, files are complete or absent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from graphalign.converters.graph import neuron_graph
from graphalign.drawing import cell_colours, draw_layers
from graphalign.errors import InvalidInput
from graphalign.graph import NeuronGraph
from graphalign.layout import lay_out

from .networks import FAMILIES

pytest.importorskip("matplotlib")
NAMES = (
    "mlp_2", "vgg_11_bn", "resnet_basic", "densenet", "unet_transposed", "gpt", "encoder_layer_relu", "squeeze_excite",
    "two_inputs",
)  # fmt: skip


def graph_of(name: str) -> NeuronGraph:
    torch.manual_seed(0)
    model, args, _ = FAMILIES[name]()
    return neuron_graph(model, args)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_one_box_and_every_box_a_place_of_its_own(name: str) -> None:
    graph = graph_of(name)
    layout = lay_out(graph)
    assert sorted(s for box in layout.boxes for s in box.steps) == sorted(layer.step for layer in graph.layers)
    places = list(zip(layout.row, layout.column, strict=True))
    assert len(set(places)) == len(places)
    for i, box in enumerate(layout.boxes):
        assert all(layout.row[j] < layout.row[i] for j in box.inputs)
    for one, lane in layout.lanes.items():
        for other, other_lane in layout.lanes.items():
            if one != other and lane == other_lane:
                (a, b), (c, d) = ((layout.row[i], layout.row[j]) for i, j in (one, other))
                assert b <= c or d <= a


def test_boxes_join_what_only_continues_a_layer() -> None:
    titles = {box.title: box.ops for box in lay_out(graph_of("resnet_basic")).boxes}
    assert any(ops[:2] == ("conv2d 3×3", "batch norm") for ops in titles.values())  # noqa: RUF001


def test_colours_differ() -> None:
    colours = cell_colours([str(i) for i in range(24)])
    assert len(set(colours.values())) == 24


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_are_written_whole_and_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"layers.{suffix}"
    path.write_text("old")
    assert draw_layers(graph_of("resnet_basic"), path) == path
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert b"old" not in first[:10]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    draw_layers(graph_of("resnet_basic"), path)
    assert path.read_bytes() == first


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    graph = graph_of("mlp_2")
    with pytest.raises(InvalidInput, match=r"found the file type '.bmp', expected one of .png, .svg, .pdf"):
        draw_layers(graph, tmp_path / "layers.bmp")
    with pytest.raises(InvalidInput, match="does not exist"):
        draw_layers(graph, tmp_path / "nowhere" / "layers.png")
    assert not list(tmp_path.iterdir())


def test_names_are_drawn_and_never_interpreted(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a$_{x$y^", torch.nn.Linear(4, 5))
            self.add_module("\u540d\u202e\U0001d54f" + "z" * 99, torch.nn.Linear(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for part in self.children():
                x = part(x)
            return x

    draw_layers(neuron_graph(Net(), torch.zeros(2, 4)), tmp_path / "layers.png")
    assert not recwarn.list


def test_a_missing_matplotlib_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of("mlp_2")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidInput, match=r"figures need matplotlib, which is not installed; run: pip install 'graphalign\[demo\]'"):
        draw_layers(graph, tmp_path / "layers.png")
