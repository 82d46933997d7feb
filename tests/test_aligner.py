"""The aligner: planted permutations, equivariance, swap symmetry, and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from graphalign import Aligner, AlignerConfig, CorruptFile, InvalidInput, group
from graphalign.aligner import SHIPPED
from graphalign.methods.gnn import GNN
from graphalign.methods.problem import Problem
from graphalign.weight_costs import similarity_cosine, unit_rows
from tests.networks import FAMILIES
from tests.planted import RECOVERABLE, plant, recovered
from tests.traced import Traced, cast, other_state, traced

ALIGNER = Aligner(AlignerConfig(codes=64))
TRAINED = Aligner.from_pretrained()
TRAINED.config = replace(TRAINED.config, codes=32)
SINGLE_PRECISION = ["mlp_3", "cnn_flatten", "vgg_11_bn", "resnet_basic", "encoder_layer_relu", "resnext", "gpt"]


def scores(
    network: Traced, a: Mapping[str, Tensor], b: Mapping[str, Tensor], seed: int = 0, aligner: Aligner = ALIGNER
) -> dict[str, Tensor]:
    with torch.no_grad():
        return aligner.scores(network.architecture, a, b, seed=seed)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", RECOVERABLE)
def test_the_trained_aligner_recovers_planted_permutations(name: str, noise: float) -> None:
    """With all of its steps."""
    network = traced(name)
    b, element = plant(network.spec, network.state, noise=noise, seed=0)
    found = GNN(TRAINED)(Problem(network.spec, network.state, b, 0, network.architecture, network.model)).permutations
    assert recovered(found, element) >= (1.0 if noise == 0 else 0.95)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SINGLE_PRECISION)
def test_the_trained_aligner_is_equivariant_and_symmetric(name: str, dtype: torch.dtype) -> None:
    """F(gA, hB) = g F(A, B) h^T and F(B, A) = F(A, B)^T, the choice of codes included."""
    network, spec = traced(name), traced(name).spec
    a, b = cast(network.state, dtype), cast(other_state(name), dtype)
    generator = torch.Generator().manual_seed(4)
    g, h = (group.random_element(spec, generator) for _ in range(2))
    plain = scores(network, a, b, aligner=TRAINED)
    moved = scores(network, group.apply_to_state(spec, g, a), group.apply_to_state(spec, h, b), aligner=TRAINED)
    swapped = scores(network, b, a, aligner=TRAINED)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert max(float((plain[n][g[n]][:, h[n]] - moved[n]).abs().max()) for n in plain) <= tolerance
    assert max(float((plain[n].T - swapped[n]).abs().max()) for n in plain) <= tolerance


@pytest.mark.parametrize("name", RECOVERABLE)
def test_planted_permutations_are_recovered(name: str) -> None:
    network = traced(name)
    for seed in range(2):
        b, element = plant(network.spec, network.state, seed=seed)
        found = ALIGNER.permutations(network.architecture, network.state, b, seed=seed)
        assert recovered(found, element) == 1.0


@pytest.mark.parametrize("name", RECOVERABLE)
def test_planted_permutations_are_recovered_under_noise(name: str) -> None:
    network = traced(name)
    for seed in range(2):
        b, element = plant(network.spec, network.state, noise=0.1, seed=seed)
        found = ALIGNER.permutations(network.architecture, network.state, b, seed=seed)
        assert recovered(found, element) >= 0.95


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [*((name, torch.float64, 1e-12) for name in FAMILIES), *((name, torch.float32, 1e-5) for name in SINGLE_PRECISION)],
)
def test_scores_are_equivariant_and_symmetric(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """F(gA, hB) = g F(A, B) h^T and F(B, A) = F(A, B)^T."""
    network, spec = traced(name), traced(name).spec
    a, b = cast(network.state, dtype), cast(other_state(name), dtype)
    generator = torch.Generator().manual_seed(4)
    g, h = (group.random_element(spec, generator) for _ in range(2))
    plain = scores(network, a, b)
    moved = scores(network, group.apply_to_state(spec, g, a), group.apply_to_state(spec, h, b))
    swapped = scores(network, b, a)
    equivariance = max(float((plain[n][g[n]][:, h[n]] - moved[n]).abs().max()) for n in plain)
    symmetry = max(float((plain[n].T - swapped[n]).abs().max()) for n in plain)
    print(f"{name} {dtype}: equivariance {equivariance:.1e}, swap {symmetry:.1e}")
    assert all(s.dtype == dtype for s in plain.values())
    assert equivariance <= tolerance
    assert symmetry <= tolerance
    assert min(float(s.std()) for s in plain.values()) > 1e-3


@pytest.mark.parametrize("name", ["mlp_3", "vgg_11_bn", "gpt"])
def test_the_seed_decides(name: str) -> None:
    network, b = traced(name), other_state(name)
    first, again, other = (scores(network, network.state, b, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    global_state = torch.get_rng_state()
    ALIGNER.permutations(network.architecture, network.state, b)
    assert torch.equal(global_state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mlp_in_place_residual", "vgg_11_bn", "attention"])
def test_inputs_are_never_modified(name: str) -> None:
    network, b = traced(name), other_state(name)
    copies = [{n: t.clone() for n, t in s.items()} for s in (network.state, b)]
    ALIGNER.permutations(network.architecture, network.state, b)
    for state, copy in zip((network.state, b), copies, strict=True):
        assert all(torch.equal(state[n], t) for n, t in copy.items())


def test_pairs_do_not_influence_each_other() -> None:
    network, b = traced("resnet_basic"), other_state("resnet_basic")
    alone = scores(network, network.state, b)
    scores(network, b, b, seed=7)
    scores(traced("mlp_3"), traced("mlp_3").state, other_state("mlp_3"))
    again = scores(network, network.state, b)
    assert all(torch.equal(alone[n], again[n]) for n in alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    network = traced("cnn_flatten")
    a = cast(network.state, dtype)
    b, element = plant(network.spec, a)
    assert all(s.dtype == torch.float32 for s in scores(network, a, b).values())
    assert recovered(ALIGNER.permutations(network.architecture, a, b), element) == 1.0


def test_permutations_maximise_the_scores() -> None:
    network, b = traced("densenet"), other_state("densenet")
    found, scored = ALIGNER.permutations(network.architecture, network.state, b), scores(network, network.state, b)
    for name, perm in found.items():
        value = float(scored[name].gather(1, perm[:, None]).sum())
        assert value >= float(scored[name].trace()) - 1e-5
        for i in range(len(perm) - 1):
            swapped = perm.clone()
            swapped[[i, i + 1]] = swapped[[i + 1, i]]
            assert value >= float(scored[name].gather(1, swapped[:, None]).sum()) - 1e-5


def test_every_term_counts() -> None:
    network, b = traced("mlp_3"), other_state("mlp_3")
    full = scores(network, network.state, b)
    for name in ("forward_weight", "backward_weight", "kernel_weight"):
        aligner = Aligner(AlignerConfig(codes=64))
        with torch.no_grad():
            getattr(aligner, name).zero_()
            partial = aligner.scores(network.architecture, network.state, b)
        assert all(float((partial[n] - full[n]).abs().max()) > 1e-2 for n in full)


def test_gradients_reach_the_parameters() -> None:
    network, b = traced("mlp_2"), other_state("mlp_2")
    aligner = Aligner(AlignerConfig(codes=32))
    soft = aligner.soft_permutations(network.spec, aligner.scores(network.architecture, network.state, b))
    sum(s.matrix.diagonal().sum() for s in soft.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and bool(p.grad != 0) for n, p in aligner.named_parameters() if not n.startswith("refiner"))


def test_similarity_cosine_is_the_cosine_of_aligned_weights() -> None:
    """With one axis per cell it is the plain cosine of rows whose columns have been matched."""
    network = traced("mlp_1_no_bias")
    spec, a, b = network.spec, cast(network.state, torch.float64), cast(other_state("mlp_1_no_bias"), torch.float64)
    element = group.random_element(spec, torch.Generator().manual_seed(0))
    (cell,) = spec.cells
    rows = [torch.cat([unit_rows(x, s[x.tensor], cell) / (a[x.tensor].square().mean() + b[x.tensor].square().mean()).sqrt()
                       for x in spec.axes], 1) for s in (a, b)]  # fmt: skip
    expected = torch.nn.functional.normalize(rows[0], dim=1) @ torch.nn.functional.normalize(rows[1], dim=1).T
    assert torch.allclose(similarity_cosine(spec, cell, a, b, element), expected, atol=1e-5)


# -- files ------------------------------------------------------------------------------------------------------------------------


def test_saved_aligners_come_back_the_same(tmp_path: Path) -> None:
    aligner = Aligner(AlignerConfig(codes=48, rounds=1, sinkhorn_iterations=7))
    with torch.no_grad():
        aligner.backward_weight.fill_(0.12345)
    aligner.save_pretrained(tmp_path / "new" / "folder")
    aligner.save_pretrained(tmp_path / "new" / "folder")  # replaces
    loaded = Aligner.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == aligner.config
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in aligner.state_dict().items())
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    network, b = traced("mlp_2"), other_state("mlp_2")
    with torch.no_grad():
        ours, theirs = (x.scores(network.architecture, network.state, b) for x in (aligner, loaded))
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_the_aligner_of_the_package_is_trained() -> None:
    aligner = Aligner.from_pretrained()
    assert aligner.prior is not None
    assert aligner.config.candidates > 1
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) <= 10e6


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"found no config\.json and no model\.safetensors; pass a folder that save_pretrained wrote"):
        Aligner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"found no model\.safetensors; "):
        Aligner.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", b"{"), ("config.json", b"[1]"), ("config.json", b'{"codez": 3}'), ("config.json", b"\xff\xfe"),
     ("model.safetensors", b""), ("model.safetensors", b"\x08\0\0\0\0\0\0\0notjson!")],
    ids=["cut json", "list", "unknown setting", "not text", "empty weights", "damaged weights"],
)  # fmt: skip
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    ALIGNER.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=r"the aligner in it cannot be read \("):
        Aligner.from_pretrained(tmp_path)


@pytest.mark.parametrize("tensors", [{"other": torch.zeros(1)}, {"forward_weight": torch.zeros(3)}], ids=["names", "shapes"])
def test_weights_of_another_model_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    ALIGNER.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CorruptFile, match="the aligner in it cannot be read"):
        Aligner.from_pretrained(tmp_path)


def test_the_config_is_readable(tmp_path: Path) -> None:
    ALIGNER.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["codes"] == 64
