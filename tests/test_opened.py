"""Networks on disk, opened: what is run is what was trained, and permutations that change it are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphalign import reading
from graphalign.alignment import Alignment
from graphalign.converters.trace import trace_architecture
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.example_inputs import example_of
from graphalign.files import save_state
from graphalign.inputs import Inputs
from graphalign.merged_files import checked_change
from graphalign.opened import open_networks
from graphalign.same_function import function_change
from graphalign.spec import AxisLayout, Cell, NetworkSpec, Segment


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            save_state(network(seed).state_dict(), tmp_path / f"{seed}.safetensors")
    return [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]


def test_a_chain_of_linear_layers_is_run_as_it_was_trained(paths: list[Path]) -> None:
    opened = open_networks(paths)
    x = opened.inputs(seed=3)
    assert float(x.abs().min()) > 0
    with torch.random.fork_rng(devices=[]):
        assert torch.equal(opened.network(1)(x), network(1)(x))
    alignment = opened.align(method="weight")
    assert checked_change(opened, 1, alignment).equal


def test_permutations_that_change_the_function_are_refused(paths: list[Path]) -> None:
    opened = open_networks(paths)
    shapes = {name: tuple(t.shape) for name, t in opened.states[0].items()}
    half = NetworkSpec((Cell("0", 6),), (AxisLayout("0.weight", 0, (Segment("0", 0, 6),)),), shapes)  # without bias and consumer
    wrong = Alignment(half, {"0": torch.tensor([1, 2, 0, 4, 5, 3])})
    with pytest.raises(InvalidInput, match=r"the permutations change an output by .*so nothing was written"):
        checked_change(opened, 1, wrong)


def test_code_is_traced_once_whatever_it_holds(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        traces.append(args)
        return trace_architecture(*args, **kwargs)

    monkeypatch.setattr(reading, "trace_architecture", counted)
    (paths[0].parent / "net.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n"
        "    made = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))\n    made.config = object()\n    return made, {'input': torch.zeros(1, 4)}\n"
    )
    opened = open_networks([*paths, paths[0]], arch=f"{paths[0].parent / 'net.py'}:net")
    for b in (1, 2):
        opened.align(0, b, method="weight")
    assert len(traces) == 1


def test_what_was_opened_is_shown_in_short(paths: list[Path]) -> None:
    opened = open_networks(paths)
    text = repr(opened).splitlines()
    assert text[0] == "Opened(2 networks, code not known)"
    assert text[1].strip() == f"Checkpoint({str(paths[0])!r}, 4 tensors, 51 entries, float32)"
    assert repr(open_networks(paths, spec=opened.graph().spec)).startswith("Opened(2 networks, with a spec)")


def test_a_spec_is_no_code(paths: list[Path]) -> None:
    spec = open_networks(paths).graph().spec
    opened = open_networks(paths, spec=spec)
    assert opened.align(method="weight").moved > 0
    with pytest.raises(InvalidInput, match="a spec says what may move, and not what is computed"):
        opened.network(0)
    save_state({"x": torch.ones(3)}, paths[0].with_name("other.safetensors"))
    with pytest.raises(SpecMismatch, match=r"'0.weight' is missing, expected shape \(6, 4\)"):
        open_networks([paths[0], paths[0].with_name("other.safetensors")], spec=spec).problem()


def test_differences_of_functions(paths: list[Path]) -> None:
    first, second = (open_networks(paths).network(i) for i in (0, 1))
    x = torch.ones(2, 4)
    assert function_change(first, first, x).difference == 0.0
    assert not function_change(first, second, x).equal
    assert function_change(first, second, x * torch.nan).difference == 0.0
    with pytest.raises(InvalidInput, match="Chain does not run on this input: mat1 and mat2"):
        function_change(first, second, torch.ones(2, 5))


class Single(nn.Linear):
    """A layer of an operator that has no float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            raise RuntimeError("not implemented for 'Double'")
        return super().forward(x)


def test_operators_without_double_precision_are_run_as_they_are() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, x = Single(4, 6), torch.randn(5, 4)
    second, third = copy.deepcopy(first), copy.deepcopy(first)
    with torch.no_grad():
        second.weight += 1e-7
        third.weight += 1e-3
    assert function_change(first, second, x).difference > 1e-9
    assert function_change(first, second, x).equal
    assert not function_change(first, third, x).equal
    with pytest.raises(InvalidInput, match="Single does not run on this input: "):
        function_change(first, second, x[:, :3])


def test_inputs_from_text() -> None:
    assert example_of("2x3").shape == (2, 3)
    assert example_of("2x3@7").max() < 7
    both = example_of("1x2,mask=1x5@2")
    assert isinstance(both, Inputs)
    assert both.kwargs["mask"].dtype == torch.long
    assert [t.shape[0] for t in example_of("1, 2x2")] == [1, 2]
    assert torch.equal(example_of("2x3", seed=1), example_of("2x3", seed=1))
    for text in ("", "x", "0x3", "1x99999999999", "1x2@0", "3@" + "9" * 30, "1x" * 500, "1;2"):
        with pytest.raises(InvalidInput, match="expected a shape such as 1x3x32x32"):
            example_of(text)
