"""Plain chains of layers as a bare state dict shows them: convolutions, then linear layers, each perhaps with a batch norm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from graphalign.errors import InvalidInput

STATISTICS = ("running_mean", "running_var")
NORM_LEAVES = frozenset({"weight", "bias", *STATISTICS, "num_batches_tracked"})
REMEDY = "pass the nn.Module instead of its state dict, with an example_input: align(model_a, model_b, example_input=x)"
TELLTALES = re.compile(
    r"(^|[._])(downsample|shortcut|skip|residual|identity|attn|attention|self_attn|qkv|[qkv]_?proj|query|key|value|"
    r"embed(ding)?s?|emb|wte|wpe|gate(_proj)?|deconv\d*|convt\d*|(conv)?transposed?\d*|lstm|gru|rnn)(?=$|[._])"
)
BLOCK = re.compile(r"^(\d+|(res|dense|conv)?_?(block|layer|stage|unit|bottleneck|cell)_?\d*)$")


@dataclass(frozen=True)
class ChainModule:
    """The tensors under one module path.

    Attributes:
        path: module path.
        tensors: by last part of the key.
    """

    path: str
    tensors: Mapping[str, Tensor]

    @property
    def is_norm(self) -> bool:
        """Whether these are the tensors of a batch norm."""
        return any(name in self.tensors for name in STATISTICS)

    @property
    def channels(self) -> int:
        """Units of its result."""
        return int(self.tensors["running_mean" if self.is_norm else "weight"].shape[0])

    def key(self, leaf: str) -> str:
        """State-dict key of one of its tensors."""
        return f"{self.path}.{leaf}"


@dataclass(frozen=True)
class ChainLayer:
    """A convolution or linear layer and the batch norm that follows it.

    Attributes:
        matrix: the layer's weight and bias.
        norm: the batch norm, or None.
    """

    matrix: ChainModule
    norm: ChainModule | None

    @property
    def weight(self) -> Tensor:
        """(O, I) of a linear layer, (O, I, *kernel) of a convolution."""
        return self.matrix.tensors["weight"]

    @property
    def is_conv(self) -> bool:
        """Whether the layer is a convolution."""
        return self.weight.dim() > 2


def read_modules(state: Mapping[str, Tensor]) -> tuple[ChainModule, ...]:
    """The modules of a chain in state-dict order.

    Raises:
        InvalidInput: lists every tensor that a chain of convolutions, linear layers and batch norms does not have.
    """
    problems = [f"key {key!r} is no text" for key in state if not isinstance(key, str)]
    problems += [
        f"'{key}' is {type(t).__name__}, expected a dense tensor"
        for key, t in state.items()
        if not isinstance(t, Tensor) or t.layout != torch.strided or t.is_quantized
    ]
    problems += [
        f"'{key}' names no module; a single layer has no hidden units to align"
        for key in state
        if isinstance(key, str) and not all(key.rpartition(".")[0].split("."))
    ]
    if not state:
        problems.append("there are no tensors in it")
    refuse(problems)
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        path, _, leaf = key.rpartition(".")
        grouped.setdefault(path, {})[leaf] = tensor.detach()
    modules = tuple(ChainModule(path, tensors) for path, tensors in grouped.items())
    for module in modules:
        problems += _module_problems(module)
    problems += [
        f"'{m.path}' is named like a part of a network that is no chain" for m in modules if TELLTALES.search(m.path.lower())
    ]
    problems += _block_problems(modules)
    problems += _shared(state)
    dtypes = {str(t.dtype).removeprefix("torch.") for key, t in state.items() if not key.endswith("num_batches_tracked")}
    if len(dtypes) > 1:
        problems.append(f"the tensors have several dtypes, {sorted(dtypes)}; convert them to one")
    refuse(problems)
    return modules


def refuse(problems: list[str]) -> None:
    """Raises InvalidInput if there are problems."""
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        raise InvalidInput(f"the state dict is not recognised as a plain chain (MLP, CNN, VGG):\n{lines}\nWhat to do: {REMEDY}")


def _module_problems(module: ChainModule) -> list[str]:
    tensors = module.tensors
    problems = [
        f"'{module.key(leaf)}' has dtype {t.dtype}, expected a floating-point type"
        for leaf, t in tensors.items()
        if leaf != "num_batches_tracked" and not t.is_floating_point()
    ]
    known = NORM_LEAVES if module.is_norm else {"weight", "bias"}
    unknown = [module.key(leaf) for leaf in tensors if leaf not in known]
    problems += [f"'{key}' is no weight or bias of a layer and no statistic of a batch norm" for key in unknown]
    if module.is_norm:
        missing = [leaf for leaf in STATISTICS if leaf not in tensors]
        missing += [leaf for leaf in ("weight", "bias") if (leaf in tensors) != ("weight" in tensors or "bias" in tensors)]
        problems += [f"'{module.key(leaf)}' of a batch norm is missing" for leaf in missing]
        vectors = {leaf: tuple(t.shape) for leaf, t in tensors.items() if leaf in NORM_LEAVES - {"num_batches_tracked"}}
        if len(set(vectors.values())) > 1 or any(len(shape) != 1 for shape in vectors.values()):
            problems.append(f"the tensors of the batch norm '{module.path}' have shapes {vectors}, expected one length")
        return problems
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None:
        return problems + ([f"'{module.key('weight')}' is missing beside its bias"] if bias is not None else [])
    shape = tuple(weight.shape)
    if len(shape) < 2:
        problems.append(
            f"'{module.key('weight')}' of shape {shape} without running statistics may belong to a layer norm, a group norm or a PReLU"
        )
    elif len(shape) > 5 or 0 in shape:
        problems.append(
            f"'{module.key('weight')}' has shape {shape}, expected (out, in) or (out, in, *kernel) without empty axes"
        )
    elif bias is not None and tuple(bias.shape) != shape[:1]:
        problems.append(
            f"'{module.key('bias')}' has shape {tuple(bias.shape)}, expected ({shape[0]},) as its weight of shape {shape}"
        )
    return problems


def _block_problems(modules: tuple[ChainModule, ...]) -> list[str]:
    """Blocks of named layers ("layer1.0.conv2") are how residual networks are written, and shapes do not show the skips."""
    inside: dict[str, list[str]] = {}
    for module in modules:
        parts = module.path.split(".")
        for i in range(len(parts) - 1):
            if BLOCK.match(parts[i]) and not parts[i + 1].isdigit() and not module.is_norm:
                inside.setdefault(".".join(parts[: i + 1]), []).append(module.path)
    return [
        f"'{block}' looks like a block of several layers ({', '.join(paths)}), which may have a skip connection"
        for block, paths in inside.items()
        if len(paths) > 1
    ]


def _shared(state: Mapping[str, Tensor]) -> list[str]:
    first: dict[tuple[str, int], str] = {}
    problems = []
    for key, tensor in state.items():
        if tensor.device.type == "meta" or not tensor.numel() or not tensor.is_floating_point():
            continue
        owner = first.setdefault((str(tensor.device), tensor.data_ptr()), key)
        if owner != key:
            problems.append(f"'{key}' shares its memory with '{owner}', so its layers are tied")
    return problems
