"""What is known of a layer and of a node apart from the edges: features that no renumbering of units changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphalign.architecture import Layer

KINDS = (
    "input", "output", "linear", "conv", "embedding", "norm", "activation", "pool", "sum", "product", "concat", "attention",
    "other",
)  # fmt: skip
"""What a layer does; the first entries of its feature vector are a one-hot code of it."""

ACTIVATIONS = (
    "relu", "leaky_relu", "prelu", "gelu", "silu", "mish", "elu", "selu", "celu", "softplus", "tanh", "sigmoid", "hardswish",
    "hardsigmoid", "hardtanh", "relu6", "sin", "glu", "softmax",
)  # fmt: skip
"""Nonlinearities with a code of their own; all others share the code "other nonlinearity"."""

_KIND_OF = {
    "linear": "linear", "matmul": "attention", "bmm": "attention", "scaled_dot_product_attention": "attention",
    "embedding": "embedding",
    "add": "sum", "sub": "sum", "rsub": "sum", "mul": "product", "div": "product", "cat": "concat", "concat": "concat",
    "concatenate": "concat", "stack": "concat", "mean": "pool", "sum": "pool", "input": "input", "output": "output",
}  # fmt: skip

LAYER_FEATURES = (
    *(f"kind: {k}" for k in KINDS),
    *(f"nonlinearity: {a}" for a in ACTIVATIONS),
    "nonlinearity: other",
    "depth from inputs",
    "depth from outputs",
    "log fan-in",
    "log fan-out",
)
"""Names of the layer features in order."""

NODE_FEATURES = ("log row norm", "bias", "may move")
"""Names of the node features in order."""


def kind(layer: Layer, weight_op: str | None = None) -> str:
    """What a layer does, one of `KINDS`; `weight_op` is the op of its weight block, if it has one."""
    if weight_op is not None:
        return weight_op
    if layer.op in _KIND_OF:
        return _KIND_OF[layer.op]
    if "norm" in layer.op:
        return "norm"
    if "pool" in layer.op:
        return "pool"
    single = len(layer.inputs) == 1
    return "activation" if layer.op in ACTIVATIONS or single else "other"


def depths(layers: tuple[Layer, ...]) -> dict[str, tuple[float, float]]:
    """Fraction of the way from inputs and from outputs by step: longest paths in and out over their sum; (0, 0) if alone."""
    before: dict[str, int] = {}
    for layer in layers:
        before[layer.step] = max((before[s] + 1 for s in layer.inputs if s in before), default=0)
    after = dict.fromkeys(before, 0)
    for layer in reversed(layers):
        for source in layer.inputs:
            if source in after:
                after[source] = max(after[source], after[layer.step] + 1)
    return {step: (b / max(b + after[step], 1), after[step] / max(b + after[step], 1)) for step, b in before.items()}


def layer_vector(layer: Layer, what: str, depth: tuple[float, float], fan_in: float, fan_out: float) -> Tensor:
    """Features of a layer, float (len(LAYER_FEATURES),).

    Args:
        layer: the layer.
        what: its kind.
        depth: its entry of `depths`.
        fan_in: weights that enter one node, on average.
        fan_out: weights that leave one node, on average.
    """
    kinds = [float(k == what) for k in KINDS]
    acts = [float(a == layer.op) for a in ACTIVATIONS]
    other = float(what == "activation" and layer.op not in ACTIVATIONS)
    logs = torch.tensor([fan_in, fan_out]).log1p().tolist()
    return torch.tensor([*kinds, *acts, other, *depth, *logs])


def node_matrix(count: int, folded: tuple[Tensor, Tensor | None] | None, units: Tensor) -> Tensor:
    """Features of the nodes of a layer, (N, len(NODE_FEATURES)); zero where a layer has no weight.

    log row norm = log(||w_o|| / sqrt(fan-in) + 1e-12) and bias, both after folding a batch normalisation; may move = 1 for
    units of a cell, 0 for inputs, outputs and other fixed nodes.
    """
    dtype = folded[0].dtype if folded is not None else torch.get_default_dtype()
    features = torch.zeros(count, len(NODE_FEATURES), dtype=dtype)
    if folded is not None:
        weight, bias = folded
        rows = weight.flatten(1)
        features[:, 0] = (rows.norm(dim=1) / rows.shape[1] ** 0.5 + 1e-12).log()
        if bias is not None:
            features[:, 1] = bias
    features[:, 2] = (units >= 0).to(dtype)
    return features


def fans(
    matrices: Mapping[str, Tensor], origins: Mapping[str, list[tuple[str, int]]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Weights per target node and per source node by step.

    Args:
        matrices: (O, I / groups, S) by step.
        origins: by step, the layers that its inputs lie in with their numbers of nodes.
    """
    inward = {step: float(w[0].numel()) for step, w in matrices.items()}
    outward: dict[str, float] = {}
    for step, weight in matrices.items():
        for source, count in origins[step]:
            outward[source] = outward.get(source, 0.0) + weight.numel() / len(origins[step]) / max(count, 1)
    return inward, outward
