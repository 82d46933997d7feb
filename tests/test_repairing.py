from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphalign.averaging import average
from graphalign.batch_norm import reset_statistics
from graphalign.errors import InvalidInput, SpecMismatch
from graphalign.group import all_tensors
from graphalign.repairing import repair
from graphalign.tensors import copy_into

from .networks import mlp, randomise
from .traced import build

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
EXACT = {"tolerance": 1e-9, "max_passes": 30}
WITHOUT_NORM = ["mlp_3", "mlp_6_no_bias", "cnn_flatten", "conv_autoencoder", "squeeze_excite", "encoder_layer_relu", "gpt"]


def pair(name: str, count: int = 2) -> list[nn.Module]:
    return [build(name, seed)[0].double() for seed in range(count)]


def inputs(name: str, samples: int = 40, seed: int = 0) -> Any:
    example = build(name)[1]
    (x,) = example.args
    generator = torch.Generator().manual_seed(seed)
    if not x.is_floating_point():
        return torch.randint(int(x.max()) + 1, (samples, *x.shape[1:]), generator=generator)
    return torch.randn(samples, *x.shape[1:], generator=generator, dtype=torch.float64)


def averaged(parents: Sequence[nn.Module], weights: Sequence[float] = (0.5, 0.5)) -> nn.Module:
    merged = copy.deepcopy(parents[0])
    copy_into(merged, average([all_tensors(p) for p in parents], weights))
    return merged


def pre_activations(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs (samples, channels) of every linear and convolution module, in the order in which they run."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            axis = -1 if isinstance(module, nn.Linear) else 1

            def note(_: nn.Module, __: Any, output: Tensor, name: str = name, axis: int = axis) -> None:
                seen.setdefault(name, []).append(output.detach().clone().movedim(axis, -1).flatten(0, -2))

            handles.append(module.register_forward_hook(note))
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def distances(repaired: nn.Module, parents: Sequence[nn.Module], weights: Sequence[float], x: Tensor) -> dict[str, float]:
    """Largest distance of a channel's mean and standard deviation from the interpolated ones of the parents, by module."""
    found, *wanted = (pre_activations(network, x) for network in (repaired, *parents))
    result = {}
    for name, z in found.items():
        mean = sum(w * p[name].mean(0) for w, p in zip(weights, wanted, strict=True))
        std = sum(w * p[name].std(0, correction=0) for w, p in zip(weights, wanted, strict=True))
        result[name] = float(torch.maximum((z.mean(0) - mean).abs(), (z.std(0, correction=0) - std).abs()).max())
    return result


class TestForward:
    @pytest.mark.parametrize("name", WITHOUT_NORM)
    def test_trap_merged_means_and_standard_deviations_equal_the_goal(self, name: str) -> None:
        parents, x, weights = pair(name, 3), inputs(name), (0.5, 0.2, 0.3)
        merged = averaged(parents, weights)
        repaired = repair(merged, parents, x.split([17, 3, 20]), weights=weights, **EXACT)
        before, after = (distances(network, parents, weights, x) for network in (merged, repaired))
        *hidden, last = after
        assert all(before[layer] > 1e-3 for layer in hidden)
        assert all(after[layer] < 1e-8 for layer in hidden), after
        assert after[last] > 1e-3

    @pytest.mark.parametrize("name", ["mlp_3", "conv_autoencoder", "encoder_layer_relu"])
    @pytest.mark.parametrize("closed_form", [False, True])
    def test_trap_nothing_changes_where_the_parents_are_equal(self, name: str, closed_form: bool) -> None:
        network, x = pair(name)[0], inputs(name)
        repaired = repair(network, [network] * 3, x.split(7), weights=(0.2, 0.5, 0.3), closed_form=closed_form, last_layer=True)
        for key, tensor in repaired.state_dict().items():
            torch.testing.assert_close(tensor, network.state_dict()[key], rtol=1e-12, atol=1e-12)

    def test_trap_batches_of_any_size_give_the_same_network(self) -> None:
        parents, x = pair("mlp_3"), inputs("mlp_3")
        merged = averaged(parents)
        x[:20] *= 3.0
        one, many = (repair(merged, parents, loader, **EXACT) for loader in ([x], x.split([1, 4, 20, 15])))
        for a, b in zip(one.parameters(), many.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)

    def test_one_batch_needs_one_pass(self) -> None:
        parents, x = pair("mlp_6_no_bias"), inputs("mlp_6_no_bias")
        repaired = repair(averaged(parents), parents, [x], max_passes=1)
        *hidden, _ = distances(repaired, parents, (0.5, 0.5), x).values()
        assert max(hidden) < 1e-12

    def test_trap_later_layers_see_corrected_inputs(self) -> None:
        parents, x = pair("mlp_6_no_bias"), inputs("mlp_6_no_bias")
        merged = averaged(parents)
        repaired = repair(merged, parents, [x])
        raw, *wanted = (pre_activations(n, x) for n in (merged, *parents))
        last = list(raw)[-2]
        goal = sum(0.5 * p[last].std(0, correction=0) for p in wanted)
        uncorrected = goal / raw[last].std(0, correction=0)  # the scale that uncorrected inputs would ask for
        scale = (repaired.get_submodule(last).weight / merged.get_submodule(last).weight)[:, 0]
        assert float((scale.detach() / uncorrected - 1).abs().max()) > 0.1

    @pytest.mark.parametrize("closed_form", [False, True])
    def test_trap_an_activation_in_place_does_not_spoil_statistics(self, closed_form: bool) -> None:
        parents, x = pair("mlp_3"), inputs("mlp_3")
        results = []
        for inplace in (False, True):
            for network in parents:
                for module in network.modules():
                    if isinstance(module, nn.ReLU):
                        module.inplace = inplace
            results.append(repair(averaged(parents), parents, x.split(13), closed_form=closed_form, **EXACT))
        for a, b in zip(results[0].parameters(), results[1].parameters(), strict=True):
            assert torch.equal(a, b)

    def test_a_module_that_runs_twice_is_corrected_over_both_calls(self) -> None:
        parents, x = pair("mlp_in_place_residual"), inputs("mlp_in_place_residual")
        merged = averaged(parents)
        repaired = repair(merged, parents, x.split(20), tolerance=1e-6, max_passes=60)
        before, after = (distances(n, parents, (0.5, 0.5), x) for n in (merged, repaired))
        assert after["first"] < 1e-4 < before["first"]
        assert after["second"] < 1e-4 < before["second"]


class TestClosedForm:
    def test_the_first_layer_is_exact_and_the_scale_is_that_of_correlations(self) -> None:
        parents, x, w = pair("mlp_3"), inputs("mlp_3"), (0.7, 0.3)
        merged = averaged(parents, w)
        repaired = repair(merged, parents, x.split(11), weights=w, closed_form=True)
        assert distances(repaired, parents, w, x)["0"] < 1e-12
        a, b = (pre_activations(n, x)["2"] for n in parents)
        sd_a, sd_b = a.std(0, correction=0), b.std(0, correction=0)
        correlation = ((a - a.mean(0)) * (b - b.mean(0))).mean(0) / (sd_a * sd_b)
        expected = (0.49 * sd_a**2 + 0.09 * sd_b**2 + 0.42 * sd_a * sd_b * correlation).sqrt()
        scale = (0.7 * sd_a + 0.3 * sd_b) / expected
        torch.testing.assert_close(repaired[2].weight, merged[2].weight * scale[:, None], rtol=1e-10, atol=0)
        mean = 0.7 * a.mean(0) + 0.3 * b.mean(0)
        torch.testing.assert_close(repaired[2].bias, scale * merged[2].bias + (1 - scale) * mean, rtol=1e-9, atol=1e-12)

    def test_the_merged_network_is_not_measured(self) -> None:
        parents, x = pair("mlp_3"), inputs("mlp_3")
        merged = averaged(parents)
        other = copy.deepcopy(merged)
        with torch.no_grad():
            other[0].weight.mul_(3.0)
        a, b = (repair(network, parents, [x], closed_form=True) for network in (merged, other))
        assert torch.equal(a[2].weight, b[2].weight)
        torch.testing.assert_close(b[0].weight, 3.0 * a[0].weight, rtol=1e-12, atol=0)

    def test_trap_a_shuffled_loader_feeds_one_batch_to_all_parents(self) -> None:
        class Shuffled:
            """Another order in every pass."""

            def __init__(self, x: Tensor) -> None:
                self.x, self.generator = x, torch.Generator().manual_seed(0)

            def __iter__(self) -> Iterator[Tensor]:
                return iter(self.x[torch.randperm(len(self.x), generator=self.generator)].split(5))

        parents, x = pair("mlp_3"), inputs("mlp_3")
        merged = averaged(parents)
        plain, shuffled = (repair(merged, parents, loader, closed_form=True) for loader in (x.split(5), Shuffled(x)))
        for a, b in zip(plain.parameters(), shuffled.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)

    def test_batch_norms_get_the_variance_of_the_average(self) -> None:
        parents, x = pair("mlp_batch_norm"), inputs("mlp_batch_norm")
        merged = averaged(parents)
        repaired = repair(merged, parents, x.split(9), closed_form=True)
        z = sum(0.5 * pre_activations(n, x)["0"] for n in parents)
        torch.testing.assert_close(repaired[1].running_mean, z.mean(0), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(repaired[1].running_var, z.var(0), rtol=1e-10, atol=1e-12)
        assert torch.equal(repaired[0].weight, merged[0].weight)


class TestBatchNorm:
    @pytest.mark.parametrize("name", ["mlp_batch_norm", "resnet_basic", "cnn_global_pool_bn"])
    def test_trap_it_is_the_reset_of_any_batch_norm(self, name: str) -> None:
        parents, x = pair(name), inputs(name)
        merged = averaged(parents)
        repaired, expected = repair(merged, parents, [x]), reset_statistics(merged, [x])
        statistics = [key for key in merged.state_dict() if "running" in key]
        for key in statistics:  # a reset normalises with the biased variance while it passes on the unbiased one
            torch.testing.assert_close(repaired.state_dict()[key], expected.state_dict()[key], rtol=5e-3, atol=5e-3)
            assert not torch.allclose(repaired.state_dict()[key], merged.state_dict()[key], rtol=5e-2, atol=5e-2)
        before = [n for n in dict(merged.named_parameters()) if n.startswith(("0.", "conv1", "layer"))]
        assert before
        assert all(torch.equal(repaired.get_parameter(n), merged.get_parameter(n)) for n in before)

    def test_statistics_are_those_of_the_whole_loader(self) -> None:
        parents, x = pair("mlp_batch_norm"), inputs("mlp_batch_norm")
        x[:25] += 2.0
        repaired = repair(averaged(parents), parents, x.split([25, 10, 5]), **EXACT)
        z = pre_activations(repaired, x)
        for layer, norm in (("0", 1), ("3", 4)):
            torch.testing.assert_close(repaired[norm].running_mean, z[layer].mean(0), rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(repaired[norm].running_var, z[layer].var(0), rtol=1e-7, atol=1e-7)
        assert repaired[1].num_batches_tracked == parents[0][1].num_batches_tracked

    def test_layers_behind_the_norms_are_corrected_too(self) -> None:
        torch.manual_seed(0)
        parents = [
            randomise(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)),
                      torch.Generator().manual_seed(s)).double().eval() for s in range(2)
        ]  # fmt: skip
        x = inputs("mlp_3")
        merged = averaged(parents)
        repaired = repair(merged, parents, x.split(8), **EXACT)
        assert distances(repaired, parents, (0.5, 0.5), x)["3"] < 1e-8 < distances(merged, parents, (0.5, 0.5), x)["3"]
        assert torch.equal(repaired[0].weight, merged[0].weight)


class TestLayers:
    def test_the_last_layer_on_request(self) -> None:
        parents, x = pair("mlp_3"), inputs("mlp_3")
        repaired = repair(averaged(parents), parents, [x], last_layer=True)
        assert max(distances(repaired, parents, (0.5, 0.5), x).values()) < 1e-12

    def test_every_output_is_left_alone(self) -> None:
        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 4)

            def forward(self, x: Tensor) -> dict[str, Tensor]:
                h = self.body(x).relu()
                return {"a": self.first(h).unsqueeze(0), "b": self.second(h)}

        torch.manual_seed(0)
        parents = [Heads().double(), Heads().double()]
        merged = averaged(parents)
        repaired = repair(merged, parents, [inputs("mlp_3")])
        changed = {k for k, v in repaired.named_parameters() if not torch.equal(v, merged.get_parameter(k))}
        assert changed == {"body.weight", "body.bias"}

    def test_layers_without_bias_get_one_or_are_only_scaled(self) -> None:
        parents, x = pair("mlp_3_no_bias"), inputs("mlp_3_no_bias")
        merged = averaged(parents)
        added, kept = (repair(merged, parents, [x], add_bias=add_bias) for add_bias in (True, False))
        assert set(added.state_dict()) == {*merged.state_dict(), "0.bias", "2.bias", "4.bias"}
        assert list(kept.state_dict()) == list(merged.state_dict())
        *hidden, _ = distances(added, parents, (0.5, 0.5), x).values()
        assert max(hidden) < 1e-12
        stds = [pre_activations(n, x)["0"].std(0, correction=0) for n in (kept, *parents)]
        torch.testing.assert_close(stds[0], (stds[1] + stds[2]) / 2)

    def test_shared_weights_are_left_alone(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding, self.body, self.again = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 6)
                self.again.weight = self.body.weight
                self.middle, self.head = nn.Linear(6, 6), nn.Linear(6, 9)
                self.head.weight = self.embedding.weight

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.middle(self.again(self.body(self.embedding(x)).relu()).relu()).relu()).softmax(-1)

        torch.manual_seed(0)
        parents = [Tied().double(), Tied().double()]
        merged = averaged(parents)
        x = torch.randint(9, (30, 4), generator=torch.Generator().manual_seed(0))
        repaired = repair(merged, parents, [x], last_layer=True)
        changed = {k for k, v in repaired.named_parameters() if not torch.equal(v, merged.get_parameter(k))}
        assert changed == {"middle.weight", "middle.bias"}
        assert repaired.head.weight is repaired.embedding.weight

    @pytest.mark.parametrize("closed_form", [False, True])
    def test_trap_dead_units_are_not_divided_by_zero(self, closed_form: bool) -> None:
        parents, x = pair("mlp_3"), inputs("mlp_3")
        with torch.no_grad():
            for network in parents:  # constant in the parents and in the average
                network[0].weight[1] = 0.0
            parents[0][2].weight[3] = 1.0
            parents[1][2].weight[3] = -1.0  # constant in the average alone
            parents[0][4].weight[2] = 0.0
        repaired = repair(averaged(parents), parents, x.split(16), closed_form=closed_form)
        assert all(bool(p.isfinite().all()) for p in repaired.parameters())
        z = pre_activations(repaired, x)
        goal = {k: sum(0.5 * pre_activations(p, x)[k].mean(0) for p in parents) for k in ("0", "2")}
        torch.testing.assert_close(z["0"][:, 1].mean(), goal["0"][1])
        if not closed_form:
            torch.testing.assert_close(z["2"][:, 3].mean(), goal["2"][3])
        assert float(z["2"][:, 3].std()) < 1e-9

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_the_dtype_is_kept(self, dtype: torch.dtype) -> None:
        parents, x = [n.to(dtype) for n in pair("mlp_3")], inputs("mlp_3")
        repaired = repair(averaged(parents), parents, x.split(20))
        assert {p.dtype for p in repaired.parameters()} == {dtype}
        *hidden, _ = distances(repaired, parents, (0.5, 0.5), x.to(dtype)).values()
        assert max(hidden) < {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-3}[dtype]


class TestInterface:
    def test_inputs_stay_as_they_are(self) -> None:
        parents, x = pair("mlp_batch_norm"), inputs("mlp_batch_norm")
        merged = averaged(parents).train()
        before = [{k: v.clone() for k, v in n.state_dict().items()} for n in (merged, *parents)]
        repaired = repair(merged, parents, x.split(20))
        assert merged.training
        assert not repaired.training
        for network, state in zip((merged, *parents), before, strict=True):
            assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in repaired.modules())

    def test_parents_may_be_state_dicts_and_batches_labelled(self) -> None:
        parents, x = pair("mlp_3"), inputs("mlp_3")
        merged = averaged(parents)
        a = repair(merged, parents, x.split(20))
        b = repair(merged, [p.state_dict() for p in parents], [(part, torch.zeros(20)) for part in x.split(20)])
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))

    def test_passes_end_where_the_tolerance_is_reached(self) -> None:
        class Counting:
            passes = 0

            def __iter__(self) -> Iterator[Tensor]:
                self.passes += 1
                yield from x.split(20)

        parents, x = pair("mlp_6_no_bias"), inputs("mlp_6_no_bias")
        found = []
        for settings in ({"tolerance": 1e6}, {"tolerance": 1e-9, "max_passes": 30}, {"tolerance": 1e-9, "max_passes": 3}):
            loader = Counting()
            repair(averaged(parents), parents, loader, **settings)
            found.append(loader.passes - 1)  # one batch is looked at first
        assert found[0] == 2
        assert 2 < found[1] <= 7  # six layers, and one pass to see that nothing is left to do
        assert found[2] == 3

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda k: k.update(parents=[]), InvalidInput, "found no parents"),
            (lambda k: k.update(weights=[1.5, -0.5]), InvalidInput, r"weights \[1.5, -0.5\], expected none negative"),
            (lambda k: k.update(weights=[0.5]), InvalidInput, "found 1 for 2 networks"),
            (lambda k: k.update(tolerance=0.0, max_passes=0), InvalidInput, "max_passes=0, expected at least 1; found tolerance=0.0"),
            (lambda k: k.update(loader=[]), InvalidInput, "found no batch"),
            (lambda k: k.update(loader=iter([torch.zeros(2, 5)])), InvalidInput, "can be read only once"),
            (lambda k: k["parents"].append(mlp([9])), SpecMismatch, r"'0.weight' is \(8, 5\) in the merged network and \(9, 5\) in parent 2"),
            (lambda k: k["loader"].append(torch.full((2, 5), torch.nan)), InvalidInput, "(?s)not finite in.*'0' in parent 0.*'2' in parent 1"),
            (lambda k: k.update(merged=nn.Sequential(nn.Linear(5, 3)), parents=[nn.Sequential(nn.Linear(5, 3))]), InvalidInput,
             "no layer to correct in Sequential.*last_layer=True"),
        ],
    )  # fmt: skip
    def test_bad_input_is_named(self, change: Callable[[dict[str, Any]], None], error: type[Exception], message: str) -> None:
        torch.manual_seed(0)
        arguments: dict[str, Any] = {"merged": mlp([8, 7]), "parents": [mlp([8, 7]), mlp([8, 7])], "loader": [torch.randn(4, 5)]}
        change(arguments)
        with pytest.raises(error, match=message):
            repair(**arguments)
