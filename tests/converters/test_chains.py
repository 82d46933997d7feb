"""State-dict chains have the spec that the tracer finds for the user's own module; everything uncertain is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphalign import group
from graphalign.converters.chain import chain_network, chain_spec
from graphalign.converters.chain_order import read_chain
from graphalign.converters.cnn import cnn_network
from graphalign.converters.mlp import mlp_network
from graphalign.converters.trace import trace, trace_architecture
from graphalign.converters.vgg import STAGES, vgg_network
from graphalign.errors import InvalidInput, UnsupportedNetwork
from graphalign.files import load_state, save_state
from graphalign.spec import NetworkSpec
from graphalign.spec_format import difference

State = dict[str, Tensor]


def mlp(depth: int, bias: bool = True, norm: bool = False, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    widths = [6, *[5 + i % 3 for i in range(depth - 1)], 4]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(widths[i], widths[i + 1], bias=bias))
        if i < depth - 1:
            layers += [*([nn.BatchNorm1d(widths[i + 1])] if norm else []), activation()]
    return nn.Sequential(*layers)


def vgg(stages: tuple[int, ...], norm: bool, positions: int, head: tuple[int, ...]) -> nn.Module:
    features: list[nn.Module] = []
    channels = 3
    for count, width in zip(stages, (3, 4, 5, 6, 6), strict=True):
        for _ in range(count):
            features += [nn.Conv2d(channels, width, 3, padding=1), *([nn.BatchNorm2d(width)] if norm else []), nn.ReLU()]
            channels = width
        features.append(nn.MaxPool2d(2))
    widths = [channels * positions, *head, 10]
    classifier: list[nn.Module] = []
    for i in range(len(widths) - 1):
        classifier += [nn.Linear(widths[i], widths[i + 1]), *([nn.ReLU(), nn.Dropout()] if i < len(widths) - 2 else [])]
    parts = OrderedDict(features=nn.Sequential(*features), flatten=nn.Flatten(), classifier=nn.Sequential(*classifier))
    return nn.Sequential(parts)


class Named(nn.Module):
    """conv1 bn1 conv2 bn2 fc1 bn3 fc2, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 9, 8)
        self.bn3 = nn.BatchNorm1d(8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        x = nn.functional.adaptive_avg_pool2d(self.bn2(self.conv2(x)).relu(), 3)
        return self.fc2(self.bn3(self.fc1(x.flatten(1))).relu())


def cnn(positions: tuple[int, int], norm: bool, kernel: int = 3) -> nn.Sequential:
    between: list[nn.Module] = [nn.BatchNorm2d(5)] if norm else []
    p = positions[0] * positions[1]
    return nn.Sequential(
        nn.Conv2d(2, 5, kernel), *between, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(positions), nn.Flatten(), nn.Linear(7 * p, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


def assert_same_spec(model: nn.Module, x: Tensor, build: Callable[[State], tuple[nn.Module, Tensor]] = chain_network) -> None:
    state = model.state_dict()
    found, example = build(state)
    expected: NetworkSpec = trace(model, x)
    assert difference(trace_architecture(found, example).spec, expected, "chain", "tracer") == ""
    assert list(found.state_dict()) == list(state)
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize("depth", range(2, 7))
@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, False), (True, True), (False, True)])
def test_mlp_has_the_spec_of_the_tracer(depth: int, bias: bool, norm: bool) -> None:
    for build in (chain_network, mlp_network):
        assert_same_spec(mlp(depth, bias, norm), torch.zeros(2, 6), build)


def test_one_layer_has_nothing_to_align() -> None:
    with pytest.raises(UnsupportedNetwork, match="no hidden unit"):
        chain_spec(mlp(1).state_dict())


@pytest.mark.parametrize("activation", ["tanh", "gelu", "leaky_relu"])
def test_activation_is_the_one_asked_for(activation: str) -> None:
    layer = {"tanh": nn.Tanh, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU}[activation]
    assert_same_spec(mlp(3, activation=layer), torch.zeros(1, 6), lambda state: mlp_network(state, activation))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("positions", [(1, 1), (2, 2), (1, 3), (3, 2), (4, 4)])
def test_cnn_has_the_spec_of_the_tracer(positions: tuple[int, int], norm: bool) -> None:
    for build in (chain_network, cnn_network):
        assert_same_spec(cnn(positions, norm), torch.zeros(2, 2, 20, 20), build)


def test_cnn_with_even_kernels() -> None:
    assert_same_spec(cnn((2, 2), True, kernel=4), torch.zeros(1, 2, 20, 20))


@pytest.mark.parametrize("dims", [1, 3])
def test_cnn_in_one_and_three_dimensions(dims: int) -> None:
    conv, norm, pool = {
        1: (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveMaxPool1d), 3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveMaxPool3d),
    }[dims]  # fmt: skip
    model = nn.Sequential(conv(2, 4, 3), norm(4), nn.ReLU(), conv(4, 3, 3), nn.ReLU(), pool(2), nn.Flatten(), nn.Linear(3 * 2**dims, 5))
    assert_same_spec(model, torch.zeros(1, 2, *[9] * dims))


def test_fully_convolutional_network() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert_same_spec(model, torch.zeros(1, 1, 8, 8))


def test_names_as_people_write_them() -> None:
    assert_same_spec(Named(), torch.zeros(1, 1, 28, 28))


def test_batch_norm_without_affine_map() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 2))
    assert_same_spec(model, torch.zeros(2, 4))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("side", "head"), [(1, ()), (1, (8, 7)), (7, (9, 8))])
@pytest.mark.parametrize("count", STAGES)
def test_vgg_has_the_spec_and_the_function_of_the_standard_network(count: int, side: int, head: tuple[int, ...], norm: bool) -> None:
    model = randomised(vgg(STAGES[count], norm, side * side, head)).double().eval()
    x = torch.rand(1, 3, 32 * side, 32 * side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_same_spec(model, x, chain_network if count < 16 else vgg_network)
    network, example = vgg_network(model.state_dict())
    assert example.shape == x.shape
    torch.testing.assert_close(network(x), model(x), rtol=1e-12, atol=0)


def test_permuting_by_the_chain_spec_leaves_the_users_function() -> None:
    model = randomised(Named()).double().eval()
    state = model.state_dict()
    spec = chain_spec(state)
    moved = group.apply_to_state(spec, group.random_element(spec, torch.Generator().manual_seed(2)), state)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = model(x)
    model.load_state_dict(moved)
    assert not torch.equal(moved["conv1.weight"], state["conv2.weight"])
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=0)


def test_norm_after_the_activation_has_at_least_the_symmetries_claimed() -> None:
    model = randomised(
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2))
    ).double().eval()  # fmt: skip
    state, x = model.state_dict(), torch.rand(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    expected, spec = model(x), chain_spec(model.state_dict())
    moved = group.apply_to_state(spec, group.random_element(spec, torch.Generator().manual_seed(5)), state)
    assert {rescaling.cell for rescaling in spec.rescalings} == {"0", "3"}
    for rescaling in spec.rescalings:
        factors = torch.rand(spec.by_name[rescaling.cell].units, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) + 0.5
        for sign, axes in ((1, rescaling.multiplied), (-1, rescaling.divided)):
            for tensor, axis in axes:
                shape = [1] * moved[tensor].dim()
                shape[axis] = -1
                moved[tensor] = moved[tensor] * (factors**sign).reshape(shape)
    model.load_state_dict(moved)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=0)


def test_signs_are_not_free_where_max_pooling_may_follow() -> None:
    network, x = cnn_network(cnn((2, 2), False).state_dict(), activation="tanh")
    assert [cell.sign_free for cell in trace(network, x).cells] == [False, False, True]


def test_the_state_is_shared_and_not_modified() -> None:
    state = Named().state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    network, example = chain_network(state)
    network(example)
    assert all(torch.equal(state[key], before[key]) for key in state)
    assert network.get_parameter("conv1.weight").data_ptr() == state["conv1.weight"].data_ptr()
    assert not any(p.requires_grad for p in network.parameters())


def test_dtype_is_kept() -> None:
    network, example = chain_network({k: v.to(torch.bfloat16) for k, v in mlp(3).state_dict().items()})
    assert example.dtype == torch.bfloat16
    assert network(example).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (mlp(8), torch.zeros(1, 6)), (mlp(12, norm=True), torch.zeros(1, 6)), (Named(), torch.zeros(1, 1, 28, 28)),
        (vgg(STAGES[13], True, 1, (7, 9)), torch.zeros(1, 3, 32, 32)),
    ],
)  # fmt: skip
def test_sorted_keys_are_put_back_in_order(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "foreign.safetensors")
    state = load_state(tmp_path / "foreign.safetensors")
    if isinstance(model, Named):  # its bn3 belongs to fc1, which its name does not tell
        with pytest.raises(InvalidInput, match=r"'bn3' belongs to no layer that its name tells"):
            chain_spec(state)
        return
    assert difference(chain_spec(state), trace(model, x)) == ""


def test_files_of_ours_keep_the_order(tmp_path: Path) -> None:
    model = Named()
    save_state(model.state_dict(), tmp_path / "ours.safetensors")
    assert difference(chain_spec(load_state(tmp_path / "ours.safetensors")), trace(model, torch.zeros(1, 1, 28, 28))) == ""


def test_sorted_names_with_numbers_find_their_norm() -> None:
    state = state_of(conv1=(4, 1, 3, 3), bn1=4, conv2=(5, 4, 3, 3), bn2=5, fc1=(7, 20), fc2=(3, 7))
    layers = read_chain({key: state[key] for key in sorted(state)})
    assert [layer.matrix.path for layer in layers] == ["conv1", "conv2", "fc1", "fc2"]
    assert [layer.norm.path if layer.norm else None for layer in layers] == ["bn1", "bn2", None, None]


def state_of(**modules: tuple[int, ...] | int) -> State:
    """A state dict of layers (shape of the weight) and batch norms (channels); "__" in a name stands for "."."""
    state: State = {}
    for name, shape in modules.items():
        path = name.replace("__", ".")
        if isinstance(shape, int):
            leaves = ("weight", "bias", "running_mean", "running_var")
            state |= {f"{path}.{leaf}": torch.ones(shape) for leaf in leaves} | {f"{path}.num_batches_tracked": torch.tensor(1)}
        else:
            state |= {f"{path}.weight": torch.ones(shape), f"{path}.bias": torch.zeros(shape[0])}
    return state


SHARED = torch.ones(4, 4)
REFUSED: dict[str, tuple[State, str]] = {
    "empty": ({}, "there are no tensors in it"),
    "no matrix": (state_of(bn=4), "comes before every layer|there is no weight matrix"),
    "sizes of linear layers": (state_of(fc1=(5, 4), fc2=(3, 6)), r"'fc2.weight' of shape \(3, 6\) reads 6 features, but 'fc1.weight' makes 5"),
    "sizes of convolutions": (state_of(c1=(5, 3, 3, 3), c2=(4, 6, 3, 3)), "reads 6 channels, but 'c1.weight' makes 5"),
    "flatten": (state_of(c1=(5, 3, 3, 3), fc=(4, 12)), "no multiple of the 5 channels"),
    "depthwise": (state_of(c1=(8, 3, 3, 3), c2=(8, 1, 3, 3)), r"a convolution in 8 groups\?"),
    "convolution after linear": (state_of(fc=(4, 8), c=(4, 4, 3, 3)), "'c.weight' is a convolution after the linear layer 'fc.weight'"),
    "mixed dimensions": (state_of(c1=(4, 3, 3), c2=(4, 4, 3, 3)), "convolves 2 dimensions, 'c1.weight' 1"),
    "projection shortcut": (state_of(conv1=(4, 3, 3, 3), downsample__0=(4, 4, 1, 1)), "'downsample.0' is named like"),
    "residual block": (
        state_of(conv1=(4, 3, 3, 3), layer1__0__conv1=(4, 4, 3, 3), layer1__0__conv2=(4, 4, 3, 3), fc=(2, 4)),
        r"'layer1.0' looks like a block of several layers \(layer1.0.conv1, layer1.0.conv2\)",
    ),
    "attention": (state_of(q_proj=(4, 4), k_proj=(4, 4), v_proj=(4, 4)), "'k_proj' is named like a part"),
    "fused attention": ({"attn.in_proj_weight": torch.ones(12, 4), "attn.out_proj.weight": torch.ones(4, 4)}, "'attn.in_proj_weight' is no weight"),
    "embedding": (state_of(embedding=(4, 4), fc=(3, 4)), "'embedding' is named like"),
    "layer norm": (state_of(fc1=(4, 3)) | {"ln.weight": torch.ones(4), "ln.bias": torch.ones(4)}, "may belong to a layer norm, a group norm or a PReLU"),
    "missing variance": ({k: v for k, v in state_of(fc=(4, 3), bn=4).items() if k != "bn.running_var"}, "'bn.running_var' of a batch norm is missing"),
    "missing bias of a norm": ({k: v for k, v in state_of(fc=(4, 3), bn=4).items() if k != "bn.bias"}, "'bn.bias' of a batch norm is missing"),
    "missing weight": ({"fc.bias": torch.ones(4)}, "'fc.weight' is missing beside its bias"),
    "wrong bias": ({"fc.weight": torch.ones(4, 3), "fc.bias": torch.ones(3)}, r"'fc.bias' has shape \(3,\), expected \(4,\)"),
    "extra key": (state_of(fc1=(4, 3), fc2=(2, 4)) | {"temperature": torch.ones(())}, "'temperature' names no module"),
    "weight norm": ({"fc.weight_g": torch.ones(4, 1), "fc.weight_v": torch.ones(4, 3)}, "'fc.weight_v' is no weight or bias"),
    "norm of another size": (state_of(fc1=(4, 3), bn=5, fc2=(2, 4)), "'bn' has 5 channels, but 'fc1' before it makes 4"),
    "two norms": (state_of(fc1=(4, 3), bn1=4, bn2=4, fc2=(2, 4)), "'bn1' and 'bn2' both follow 'fc1'"),
    "norms after all layers": (state_of(conv1=(4, 3, 3, 3), conv2=(4, 4, 3, 3), bn1=4, bn2=4), "its number is another layer's"),
    "norm first": (state_of(bn=3, fc1=(4, 3), fc2=(2, 4)), "'bn' comes before every layer"),
    "not in order": (state_of(fc2=(4, 4), fc1=(4, 4)), "'fc1' comes after 'fc2'"),
    "sorted keys that fit in two orders": (
        dict(sorted(state_of(decoder=(8, 4), encoder=(4, 8)).items())), "2 orders of the layers fit their sizes",
    ),
    "sorted keys that fit in no order": (dict(sorted(state_of(a=(8, 4), b=(3, 5)).items())), "no orders of the layers fit"),
    "tied": ({"fc1.weight": SHARED, "fc1.bias": torch.ones(4), "fc2.weight": SHARED}, "'fc2.weight' shares its memory with 'fc1.weight'"),
    "integers": ({"fc1.weight": torch.ones(4, 3, dtype=torch.int8), "fc2.weight": torch.ones(2, 4)}, "torch.int8, expected a floating-point type"),
    "several dtypes": ({"fc1.weight": torch.ones(4, 3).half(), "fc2.weight": torch.ones(2, 4)}, r"several dtypes, \['float16', 'float32'\]"),
    "a single layer": ({"weight": torch.ones(4, 3), "bias": torch.ones(4)}, "a single layer has no hidden units"),
    "empty axis": ({"fc1.weight": torch.ones(0, 3), "fc2.weight": torch.ones(2, 0)}, "without empty axes"),
    "sparse": ({"fc1.weight": torch.ones(2, 2).to_sparse()}, "expected a dense tensor"),
    "name of a method": (state_of(fc1=(4, 3), forward=(2, 4)), "'forward' cannot be the name of a module"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_uncertain_is_refused(case: str) -> None:
    state, message = REFUSED[case]
    with pytest.raises(InvalidInput, match=message):
        chain_network(state)


def test_refusals_list_everything_and_say_what_to_pass() -> None:
    with pytest.raises(InvalidInput, match=r"(?s)reads 6 features.*reads 7 features.*pass the nn.Module .* with an example_input"):
        chain_network(state_of(fc1=(5, 4), fc2=(3, 6), fc3=(2, 7)))


def test_builders_refuse_each_others_networks() -> None:
    with pytest.raises(InvalidInput, match=r"'0.weight' has shape \(5, 2, 3, 3\), expected \(out, in\)"):
        mlp_network(cnn((2, 2), False).state_dict())
    with pytest.raises(InvalidInput, match="there is no convolution in it"):
        cnn_network(mlp(3).state_dict())
    with pytest.raises(InvalidInput, match="there are 2 convolutions, expected one of"):
        vgg_network(cnn((2, 2), False).state_dict())
    with pytest.raises(InvalidInput, match="activation: found 'swoosh', expected one of"):
        mlp_network(mlp(3).state_dict(), activation="swoosh")
