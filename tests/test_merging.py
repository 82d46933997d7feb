from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphalign
from graphalign import group, reading
from graphalign.batch_norm import reset_statistics
from graphalign.converters.trace import trace_architecture
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.files import save_state
from graphalign.group import all_tensors
from graphalign.merging import merge
from graphalign.methods.weight import Weight
from graphalign.pairwise import align
from graphalign.repairing import repair
from graphalign.testing import assert_same_function

from .networks import mlp
from .traced import build, cast, traced


def copies(name: str, count: int = 3) -> list[nn.Module]:
    """One network with its units in `count` orders, float64; the first is the network itself."""
    network = traced(name)
    generator = torch.Generator().manual_seed(1)
    elements = [group.random_element(network.spec, generator) for _ in range(count - 1)]
    model = copy.deepcopy(network.model).double()
    return [model, *(group.apply_to_module(network.spec, element, model) for element in elements)]


def independent(count: int = 3, name: str = "mlp_3") -> list[nn.Module]:
    return [build(name, seed)[0].double() for seed in range(count)]


def example(name: str) -> Any:
    """The example input of a family for networks in float64."""
    return cast(traced(name).example, torch.float64)


def vectors(samples: int = 60) -> Tensor:
    return torch.randn(samples, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assert_equal(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> None:
    for (name, x), y in zip(all_tensors(a).items(), all_tensors(b).values(), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


class TestCopies:
    @pytest.mark.parametrize(("name", "method"), [
        ("mlp_3", "gnn"), ("cnn_flatten", "weight"), ("resnet_basic", "weight"), ("encoder_layer_relu", "gnn"), ("resnext", "weight"),
    ])  # fmt: skip
    def test_trap_merge_of_permuted_copies_is_the_copy(self, name: str, method: str) -> None:
        models = copies(name)
        merged = merge(models, example_input=example(name), method=method)
        assert_equal(merged, models[0])

    @pytest.mark.parametrize("arguments", [
        {"reference": 1}, {"method": "weight", "reference": 2}, {"method": "universe", "reference": 1}, {"method": "transport"},
        {"method": "weight", "reference": "universe"}, {"method": Weight(restarts=1)}, {"weights": [0.5, 0.2, 0.3]},
        {"method": "naive", "refine": "weight"}, {"method": "weight", "init": "gnn"}, {"method": "weight", "restarts": 2},
    ])  # fmt: skip
    def test_however_they_are_aligned_and_into_whichever_order(self, arguments: dict[str, Any]) -> None:
        models = copies("mlp_batch_norm")
        first = arguments.get("reference", 0)
        merged = merge(models, example_input=example("mlp_batch_norm"), **arguments)
        assert_equal(merged, models[first if isinstance(first, int) else 0], 1e-15)

    def test_trap_running_statistics_travel_with_the_units(self) -> None:
        name = "cnn_flatten_bn"
        models = copies(name, 2)
        merged = merge(models[::-1], example_input=example(name))
        assert any(not torch.equal(p, q) for p, q in zip(all_tensors(merged).values(), all_tensors(models[0]).values(), strict=True))
        assert_same_function(models[0], merged, example(name))

    @pytest.mark.parametrize("closed_form", [False, True])
    def test_trap_repair_is_measured_on_aligned_parents(self, closed_form: bool) -> None:
        models = copies("mlp_3")
        merged = merge(models, example_input=example("mlp_3"), repair=vectors().split(20), closed_form=closed_form)
        assert_equal(merged, models[0], 1e-12)

    def test_matched_averaging_keeps_the_function(self) -> None:
        models = copies("mlp_3")
        merged = merge(models, example_input=example("mlp_3"), method="matched_averaging")
        assert_same_function(models[0], merged, vectors(), 1e-8)


class TestAverage:
    def test_aligned_networks_are_averaged_with_their_weights(self) -> None:
        models, x, w = independent(), example("mlp_3"), [0.5, 0.2, 0.3]
        aligned = [models[0], *(align(models[0], m, example_input=x, method="weight").apply(m) for m in models[1:])]
        merged = merge(models, example_input=x, method="weight", weights=w)
        for name, tensor in all_tensors(merged).items():
            expected = sum(c * all_tensors(m)[name] for c, m in zip(w, aligned, strict=True))
            torch.testing.assert_close(tensor, expected, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("method", [None, "naive"])
    def test_networks_that_are_aligned_already_need_no_example(self, method: str | None) -> None:
        models = independent()
        merged = merge(models, method=method)
        torch.testing.assert_close(merged[0].weight, sum(m[0].weight for m in models) / 3)

    def test_given_alignments_are_those_of_all_models_but_the_reference(self) -> None:
        models, x = independent(), example("mlp_3")
        found = [align(models[1], models[k], example_input=x, method="weight") for k in (0, 2)]
        a = merge(models, method=found, reference=1, weights=[0.3, 0.3, 0.4])
        b = merge(models, example_input=x, method="weight", reference=1, weights=[0.3, 0.3, 0.4])
        assert_equal(a, b)
        without = merge(models, method=found, reference=1, weights=[0.0, 0.6, 0.4])
        assert_equal(without, merge([models[1], models[2]], method=found[1:], weights=[0.6, 0.4]))

    def test_results_are_those_of_the_seed(self) -> None:
        models, x = independent(), example("mlp_3")
        first, again = (merge(models, example_input=x, method="universe", start="random", seed=3) for _ in range(2))
        assert_equal(first, again)

    def test_a_universe_raises_the_agreement_of_all_pairs(self) -> None:
        models, x = independent(4), example("mlp_3")

        def norm(network: nn.Module) -> float:  # largest where the aligned networks agree best
            return float(sum(p.square().sum() for p in network.parameters()).detach())

        pairwise, joint = (
            merge(models, example_input=x, method="weight", reference=reference) for reference in (0, "universe")
        )
        assert norm(joint) > norm(pairwise)

    def test_trap_integer_buffers_are_those_of_the_reference(self) -> None:
        models = independent(3, "cnn_flatten_bn")
        for i, model in enumerate(models):
            model[1].num_batches_tracked.fill_(10 * i)
        merged = merge(models, method=None, reference=2)
        assert int(merged[1].num_batches_tracked) == 20
        assert merged[1].num_batches_tracked.dtype == torch.long
        torch.testing.assert_close(merged[1].running_var, sum(m[1].running_var for m in models) / 3)

    def test_tied_weights_stay_tied(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding, self.body, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.body(self.embedding(x)).relu())

        torch.manual_seed(0)
        models = [Tied(), Tied()]
        x = torch.tensor([[1, 2]])
        for method in ("weight", None):
            merged = merge(models, example_input=x, method=method)
            assert merged.head.weight is merged.embedding.weight
        mixed = merge([models[0], {k: v for k, v in models[1].state_dict().items() if k != "head.weight"}], example_input=x)
        assert_equal(mixed, merge(models, example_input=x))

    def test_other_widths_by_transport_have_those_of_the_reference(self) -> None:
        torch.manual_seed(0)
        small, large = mlp([8, 7]), mlp([16, 14])
        merged = merge([small, large], example_input=torch.zeros(2, 5), method="transport")
        assert [tuple(p.shape) for p in merged.parameters()] == [tuple(p.shape) for p in small.parameters()]
        repaired = merge([large, small], example_input=torch.zeros(2, 5), method="transport", repair=[vectors().float()])
        assert repaired[0].weight.shape == (16, 5)
        assert bool(torch.isfinite(repaired(torch.ones(2, 5))).all())


class TestKinds:
    def test_trap_a_single_model_is_a_no_op(self, tmp_path: Path) -> None:
        (model,) = independent(1, "cnn_flatten_bn")
        for arguments in ({}, {"method": "universe"}, {"weights": [1.0]}, {"repair": [torch.zeros(2, 3, 12, 12)]}):
            merged = merge([model], **arguments)
            assert merged is not model
            assert_equal(merged, model)
        state = merge([model.state_dict()])
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
        state["0.weight"].zero_()
        assert bool(model[0].weight.any())
        save_state(model.state_dict(), tmp_path / "a.safetensors")
        assert merge([tmp_path / "a.safetensors"]).keys() == model.state_dict().keys()

    def test_state_dicts_and_files_give_a_state_dict(self, tmp_path: Path) -> None:
        models, x = independent(), example("mlp_3")
        expected = merge(models, example_input=x, method="weight").state_dict()
        states: list[Any] = [m.state_dict() for m in models]
        save_state(states[1], tmp_path / "b.safetensors")
        states[1] = tmp_path / "b.safetensors"
        found = merge(states, method="weight")
        assert list(found) == list(expected)
        assert all(torch.equal(found[k], v) for k, v in expected.items())

    @pytest.mark.parametrize("reference", [0, 1, 2])
    def test_state_dicts_beside_a_module_are_weights_for_it(self, reference: int) -> None:
        models, x = independent(3, "mlp_batch_norm"), example("mlp_batch_norm")
        mixed: list[Any] = [models[0].state_dict(), models[1], models[2].state_dict()]
        merged = merge(mixed, example_input=x, method="weight", reference=reference)
        assert isinstance(merged, nn.Sequential)
        assert_equal(merged, merge(models, example_input=x, method="weight", reference=reference))

    def test_the_reference_says_dtype_and_mode(self) -> None:
        a, b = independent(2)
        merged = merge([a.float().train(), b], method=None)
        assert merged[0].weight.dtype == torch.float32
        assert merged.training

    def test_inputs_stay_as_they_are(self) -> None:
        models, x = independent(3, "cnn_flatten_bn"), example("cnn_flatten_bn")
        before = [copy.deepcopy(m) for m in models]
        data = [torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))]
        merged = merge(models, example_input=x, method="weight", repair=data, reset_batch_norm=data)
        with torch.no_grad():
            for tensor in all_tensors(merged).values():
                tensor.zero_()
        for model, old in zip(models, before, strict=True):
            assert_equal(model, old)
            assert model.training == old.training


class TestStatistics:
    @pytest.mark.parametrize("closed_form", [False, True])
    def test_repair_of_the_average_with_its_weights(self, closed_form: bool) -> None:
        models, w, x = independent(), [0.6, 0.4, 0.0], vectors().split(20)
        merged = merge(models, method=None, weights=w, repair=x, closed_form=closed_form)
        plain = merge(models, method=None, weights=w)
        assert_equal(merged, repair(plain, models[:2], x, weights=w[:2], closed_form=closed_form))

    def test_batch_norms_are_reset(self) -> None:
        models = independent(2, "cnn_flatten_bn")
        x = torch.randn(30, 3, 12, 12, generator=torch.Generator().manual_seed(0)).split(10)
        merged = merge(models, method=None, reset_batch_norm=x)
        assert_equal(merged, reset_statistics(merge(models, method=None), x))


BAD: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "one network instead of a list": (lambda: {"models": mlp([8])}, InvalidInput, "found one Sequential, expected a list"),
    "no networks": (lambda: {"models": []}, InvalidInput, "found no networks"),
    "no network at all": (lambda: {"models": [mlp([8]), 3]}, InvalidInput, "network 1: found int, expected a torch.nn.Module"),
    "weights that do not add up": (lambda: {"weights": [1, 2]}, InvalidInput, r"weights: found \[1.0, 2.0\] with sum 3, expected 1"),
    "too few weights": (lambda: {"weights": [1.0]}, InvalidInput, "weights: found 1 for 2 networks"),
    "weights that are not finite": (lambda: {"weights": [float("nan"), 1.0]}, InvalidInput, "expected finite numbers"),
    "an unknown reference": (lambda: {"reference": 2}, InvalidInput, "reference: found 2, expected the number of a model, 0 to 1"),
    "a universe of nothing": (lambda: {"reference": "universe", "method": None}, InvalidInput, "reference: found 'universe', which starts from"),
    "too many alignments": (lambda: {"method": [1, 2]}, InvalidInput, "found 2 alignments for 2 models, expected one for each but the reference"),
    "refinement of nothing": (lambda: {"method": None, "refine": "weight"}, InvalidInput, "refine: nothing uses this with method 'naive'"),
    "closed form of nothing": (lambda: {"closed_form": True}, InvalidInput, "closed_form: it is a way of repair="),
    "repair of state dicts": (
        lambda: {"models": [mlp([8]).state_dict()] * 2, "repair": [vectors()]}, InvalidInput, "repair: found state dicts alone",
    ),
    "repair of new widths": (
        lambda: {"method": "matched_averaging", "repair": [vectors()]}, InvalidInput, "repair: not with method 'matched_averaging'",
    ),
    "negative weights with repair": (
        lambda: {"weights": [2.0, -1.0], "repair": [vectors()]}, InvalidInput, r"weights: found \[2.0, -1.0\], expected none negative",
    ),
    "unknown method": (lambda: {"method": "magic"}, InvalidInput, "found 'magic', expected one of"),
    "unknown setting": (lambda: {"method": "weight", "speed": 3}, InvalidInput, "found unknown settings speed"),
    "no example input": (lambda: {"example_input": None}, InvalidInput, "found a module and no example_input"),
}  # fmt: skip


class TestBadInput:
    @pytest.mark.parametrize("case", BAD)
    def test_is_named(self, case: str) -> None:
        change, error, message = BAD[case]
        arguments = {"models": [mlp([8]), mlp([8])], "example_input": torch.zeros(2, 5), **change()}
        with pytest.raises(error, match=message):
            merge(arguments.pop("models"), **arguments)

    def test_all_wrong_arguments_are_listed(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            merge([mlp([8]), mlp([8])], reference=5, weights=[1.0, 1.0], closed_form=True)
        assert all(word in str(caught.value) for word in ("reference", "sum 2", "closed_form"))

    @pytest.mark.parametrize("method", ["gnn", None])
    def test_trap_mismatches_name_every_tensor_of_every_network(self, method: str | None) -> None:
        models = [mlp([8, 7]), mlp([9, 7]), mlp([8, 7, 6])]
        with pytest.raises(SpecMismatch) as caught:
            merge(models, example_input=torch.zeros(2, 5), method=method)
        for problem in (
            "'0.weight' is (8, 5) in network 0 and (9, 5) in network 1", "'2.weight' is (7, 8) in network 0 and (7, 9) in network 1",
            "'6.weight' is in network 2 and not in network 0", "use method='transport'",
        ):  # fmt: skip
            assert problem in str(caught.value)

    def test_weights_that_are_not_finite_name_network_and_tensor(self) -> None:
        models = [mlp([8]), mlp([8]), mlp([8])]
        with torch.no_grad():
            models[1][0].bias[2] = torch.nan
            models[2][2].weight[0, 0] = torch.inf
        with pytest.raises(InvalidInput, match=r"(?s)network 1.*'0.bias' has 1 NaN.*network 2.*'2.weight' has 1 infinite"):
            merge(models, method=None)

    def test_a_reference_without_a_module_of_its_widths(self) -> None:
        with pytest.raises(SpecMismatch, match=r"(?s)'0.weight' is \(8, 5\) in network 0 and \(9, 5\) in the first module.*as a module"):
            merge([mlp([8]).state_dict(), mlp([9])], example_input=torch.zeros(2, 5), method="transport")

    def test_tensors_of_one_shape_in_another_architecture(self) -> None:
        other = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        with pytest.raises(SpecMismatch):
            merge([mlp([8]), other], example_input=torch.zeros(2, 5), method="weight")


@pytest.mark.parametrize("method", ["weight", "universe"])
def test_networks_of_one_code_are_traced_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        traces.append(args)
        return trace_architecture(*args, **kwargs)

    monkeypatch.setattr(reading, "trace_architecture", counted)
    merge([mlp([8]) for _ in range(4)], example_input=torch.zeros(1, 5), method=method)
    assert len(traces) == 1


def test_it_is_exported() -> None:
    assert graphalign.merge is merge
    assert graphalign.repair is repair
