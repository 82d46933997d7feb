from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from graphalign.averaging import average, averaging_weights
from graphalign.errors import InvalidInput, SpecMismatch


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(4, 3, generator=generator).to(dtype),
        "running_var": torch.rand(4, generator=generator).to(dtype),
        "num_batches_tracked": torch.tensor(10 + seed),
        "mask": torch.tensor([seed % 2 == 0, True]),
    }


def test_entries_are_the_weighted_sum() -> None:
    states, w = [state(i, torch.float64) for i in range(3)], [0.5, 0.2, 0.3]
    found = average(states, w)
    for name in ("w", "running_var"):
        torch.testing.assert_close(found[name], sum(c * s[name] for c, s in zip(w, states, strict=True)), rtol=1e-14, atol=1e-15)


def test_trap_integer_buffers_are_those_of_the_first_network() -> None:
    found = average([state(i) for i in (3, 4, 5)], [0.2, 0.3, 0.5])
    assert found["num_batches_tracked"].dtype == torch.long
    assert int(found["num_batches_tracked"]) == 13
    assert found["mask"].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_networks_give_that_network_to_the_last_bit(dtype: torch.dtype, count: int) -> None:
    found = average([state(0, dtype) for _ in range(count)], [1 / count] * count)
    for name, tensor in state(0, dtype).items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_half_precision_is_rounded_once() -> None:
    states = [{"w": torch.tensor([1.0], dtype=torch.float16)}, *({"w": torch.tensor([1.0 + 2**-10], dtype=torch.float16)} for _ in range(3))]
    assert average(states, [0.25] * 4)["w"].item() == 1.0 + 2**-10  # 1 + 0.75 ulp; summed in half precision it stays 1


def test_a_network_without_weight_takes_no_part_even_if_it_is_not_finite() -> None:
    broken = {k: v.fill_(torch.inf) if v.is_floating_point() else v for k, v in state(0).items()}
    found = average([broken, state(1)], [0.0, 1.0])
    assert torch.equal(found["w"], state(1)["w"])
    assert int(found["num_batches_tracked"]) == 10


def test_extrapolation() -> None:
    found = average([{"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}], [-1.0, 2.0])
    assert found["w"].item() == 3.0


def test_other_dtypes_follow_the_first() -> None:
    found = average([state(0, torch.float16), state(1, torch.float64)], [0.5, 0.5])
    assert found["w"].dtype == torch.float16


def test_inputs_stay_as_they_are_and_share_no_memory() -> None:
    states = [state(0), state(1)]
    found = average(states, [1.0, 0.0])
    for tensor in found.values():
        tensor.fill_(1)
    assert torch.equal(states[0]["w"], state(0)["w"])
    assert int(states[0]["num_batches_tracked"]) == 10


def test_tied_weights_stay_tied() -> None:
    def tied(seed: int) -> dict[str, torch.Tensor]:
        w = state(seed)["w"]
        return {"embedding.weight": w, "head.weight": w, "other": w.clone()}

    found = average([tied(0), tied(1)], [0.5, 0.5])
    assert found["embedding.weight"] is found["head.weight"]
    assert found["other"] is not found["head.weight"]


def test_trap_all_differences_of_all_networks_are_named() -> None:
    states = [state(0), state(1), state(2)]
    del states[1]["running_var"]
    states[1]["w"] = torch.zeros(4, 2)
    states[2]["extra"] = torch.zeros(1)
    states[2]["num_batches_tracked"] = torch.tensor(1.0)
    with pytest.raises(SpecMismatch) as caught:
        average(states, [0.5, 0.25, 0.25])
    for problem in (
        "'running_var' is in network 0 and not in network 1", "'w' is (4, 3) in network 0 and (4, 2) in network 1",
        "'extra' is in network 2 and not in network 0", "'num_batches_tracked' is torch.int64 in network 0 and torch.float32 in network 2",
    ):  # fmt: skip
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5], "found 1 for 3 networks"),
        ([0.5, 0.5, math.nan], "expected finite numbers"),
        ([math.inf, 0.0, 0.0], "expected finite numbers"),
        ([1, 2, 1], r"found \[1.0, 2.0, 1.0\] with sum 4, expected 1; divide them by their sum"),
        ([0.3, 0.3, 0.3], "with sum 0.9, expected 1"),
    ],
)
def test_weights_must_be_finite_and_add_up_to_one(weights: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        averaging_weights(weights, 3)


def test_weights_may_be_left_out_rounded_or_negative() -> None:
    assert averaging_weights(None, 4) == [0.25] * 4
    assert averaging_weights(torch.tensor([0.1] * 10), 10) == pytest.approx([0.1] * 10)
    assert averaging_weights([2, -1], 2) == [2.0, -1.0]
