"""Networks that must be refused: the message says which operator, where, and what to do; and the two ways on."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphalign
from graphalign import Inputs, InvalidInput, UnsupportedNetwork, align, group, trace, verify
from graphalign.converters.rules import RULES
from tests.networks import UNSUPPORTED

REMEDY = r"What to do: pass fixed=\[operator or module path\].* register_rule$|What to do: pass fixed=.*register_rule"
HERE = re.escape(Path(__file__).name)
NETWORKS = r"networks\w*\.py:\d+ `return self\.second\(.*`"

MESSAGES = {
    "no_hidden_unit": r"Linear has no hidden unit that may move \(.*network output\)\nWhat to do: align networks with at least one hidden layer",
    "no_parameters": r"Sequential has no parameters, so there is nothing to align",
    "control_flow": r"Refused branches on the values of its data at .*networks\w*\.py:\d+ `return torch\.relu\(h\) if .*`.*\nWhat to do: .*torch\.where",
    "matrix_inverse": rf"uses 1 operation\(s\)(?s:.)*aten\.linalg_inv\.default in the network itself, .*{NETWORKS}: no rule(?s:.)*{REMEDY}",
    "sort": rf"aten\.sort\.default in the network itself, .*{NETWORKS}: no rule for this operator(?s:.)*{REMEDY}",
    "fourier": rf"aten\.fft_fft\.default in the network itself, .*{NETWORKS}: no rule for this operator(?s:.)*{REMEDY}",
}


def test_the_tables_agree() -> None:
    assert MESSAGES.keys() == UNSUPPORTED.keys()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_networks_are_refused_with_their_message(name: str) -> None:
    torch.manual_seed(0)
    model, args, kwargs = UNSUPPORTED[name]()
    with pytest.raises(UnsupportedNetwork, match=MESSAGES[name]):
        trace(model, Inputs(*args, **kwargs))


class Sorter(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft(x, dim=-1).abs()


def deep(*functions: Callable[[Tensor], Tensor]) -> nn.Sequential:
    """Linear 5 -> 8 -> 8 ... -> 3 with a ReLU and then one function after every layer from the second on."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(5, 8), nn.ReLU()]
    width = 8
    for function in functions:
        layers += [nn.Linear(width, 8), Sorter(function), nn.ReLU()]
        width = function(torch.zeros(2, 8)).shape[-1]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def values(x: Tensor) -> Tensor:
    return torch.sort(x, -1).values


X = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))


def test_all_offences_are_reported_at_once_with_their_modules() -> None:
    with pytest.raises(UnsupportedNetwork) as caught:
        trace(deep(values, spectrum), X)
    assert [(o.op, o.module) for o in caught.value.offences] == [("aten.sort.default", "3"), ("aten.fft_rfft.default", "6")]
    assert all(re.search(rf"{HERE}:\d+ `return .*`$", o.source) for o in caught.value.offences)
    assert re.search(r"Sequential uses 2 operation\(s\)(?s:.)*in module '3', (?s:.)*in module '6', ", str(caught.value))


@pytest.mark.parametrize("fixed", [["aten.sort"], ["3"], ("aten.sort", "3")], ids=str)
def test_fixed_operators_and_modules_keep_only_their_own_units(fixed: Any) -> None:
    model = deep(values)
    spec = trace(model, X, fixed=fixed)
    assert [(c.name, c.units) for c in spec.cells] == [("0", 8)]
    assert [(f.name, f.count) for f in spec.fixed if "fixed=" in f.reason] == [("2", 8)]
    assert verify(model, X, spec=spec, samples=20) <= 1e-10


def test_fixed_solves_several_offences_together() -> None:
    model = deep(values, spectrum)
    spec = trace(model, X, fixed=["aten.sort", "6"])
    assert [c.name for c in spec.cells] == ["0"]
    assert verify(model, X, spec=spec, samples=20) <= 1e-10
    with pytest.raises(UnsupportedNetwork, match=r"uses 1 operation\(s\)(?s:.)*aten\.fft_rfft"):
        trace(model, X, fixed=["aten.sort"])


def test_align_takes_fixed() -> None:
    model = deep(values)
    spec = trace(model, X, fixed=["aten.sort"])
    element = group.random_element(spec, torch.Generator().manual_seed(1))
    moved = group.apply_to_module(spec, group.inverse(element), model)
    found = align(model, moved, example_input=X, method="weight", fixed=("aten.sort",))
    assert torch.equal(found.permutations["0"], element["0"])


def test_an_operator_on_constants_alone_needs_no_rule() -> None:
    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            order = torch.sort(torch.linalg.inv(torch.eye(2) * 2.0).sum(0)).values[:1]
            return self.second(torch.relu(self.first(x)) * order)

    assert [c.units for c in trace(Positional(), X).cells] == [8]


# -- a rule of one's own ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rules() -> Iterator[None]:
    """Puts the registry back as it was."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


@pytest.fixture
def documented(rules: None) -> dict[str, Any]:
    """The names that the code of docs/new_operator.md defines."""
    text = (Path(graphalign.__file__).parents[1] / "docs" / "new_operator.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "new_operator"}
    torch.manual_seed(0)
    try:
        exec(compile(code, "docs/new_operator.md", "exec"), names)
    except UnsupportedNetwork as error:  # the operator exists already: torch.library forgets nothing
        raise AssertionError("the documented rule does not reach the tracer") from error
    return names


def test_a_rule_for_a_custom_operator_takes_a_few_lines(documented: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    spec, model, x = documented["spec"], documented["model"], documented["x"]
    assert [(c.name, c.units, c.activation) for c in spec.cells] == [("first", 8, ("swish7",))]
    assert not spec.rescalings
    element = group.random_element(spec, torch.Generator().manual_seed(1))
    moved = group.apply_to_module(spec, group.inverse(element), model)
    for method in ("weight", "gnn"):
        assert torch.equal(align(model, moved, example_input=x, method=method).permutations["first"], element["first"])
    del RULES["mylib.swish7"]
    with pytest.raises(UnsupportedNetwork, match=r"mylib\.swish7\.default in the network itself"):
        trace(model, x)


def test_rules_are_registered_for_operators_and_for_names(rules: None) -> None:
    rule = graphalign.converters.elementwise("mine")
    for operator in (torch.ops.aten.sort, torch.ops.aten.sort.stable, "aten.sort"):
        RULES.pop("aten.sort", None)
        assert graphalign.register_rule(operator)(rule) is rule
        assert RULES["aten.sort"] is rule


def test_a_rule_that_fails_is_reported_as_an_offence(rules: None) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("no such luck")

    graphalign.register_rule("aten.relu")(broken)
    with pytest.raises(
        UnsupportedNetwork,
        match=r"aten\.relu\.default in module '1', .*its rule does not cover this use \(ValueError: no such luck\)",
    ):
        trace(deep(), X)


def test_fixed_names_that_match_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"fixed=\['aten\.srot'\].*names no operator or module"):
        trace(deep(values), X, fixed=["aten.sort", "aten.srot"])


def test_every_rule_names_an_operator_that_exists() -> None:
    names = [name.removeprefix("aten.") for name in RULES if name.startswith("aten.")]
    assert [n for n in names if not hasattr(torch.ops.aten, n) and not hasattr(torch.ops.aten, n + "_")] == []
