"""Full-size networks, built without weights: their code alone, on the meta device, and random tensors for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphalign.bench.networks import mlp
from graphalign.experiments.networks import TransformerBlock
from graphalign.zoo.networks import resnet, vgg

Built = tuple[nn.Module, Tensor]
"""A network on the meta device, and an input on the CPU."""


class WideBlock(nn.Module):
    """x + f(x) with normalisations first (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) to features."""
        y = F.relu(self.norm1(x))
        result: Tensor = (x if self.shortcut is None else self.shortcut(y)) + self.conv2(F.relu(self.norm2(self.conv1(y))))
        return result


def wide_resnet(depth: int, factor: int, classes: int = 10) -> nn.Sequential:
    """WideResNet-`depth`-`factor`: three stages of (depth - 4) / 6 blocks; `wide_resnet(28, 10)` has 36.5 M parameters."""
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False)]
    for stage in range(3):
        for block in range((depth - 4) // 6):
            inputs = widths[stage] if block == 0 else widths[stage + 1]
            layers.append(WideBlock(inputs, widths[stage + 1], 2 if stage and not block else 1))
    return nn.Sequential(*layers, nn.BatchNorm2d(widths[3]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[3], classes))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions and pre-norm blocks (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, size: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token, self.position = nn.Parameter(torch.empty(1, 1, width)), nn.Parameter(torch.empty(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, 4 * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        result: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return result


class CausalBlock(nn.Module):
    """Pre-norm causal attention with fused query, key and value, then a pre-norm MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.project = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, width) to tokens."""
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d)
        x = x + self.project(y)
        result: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return result


class LanguageModel(nn.Module):
    """A decoder in the shape of GPT-2 (Radford et al. 2019), whose head is the transposed embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(CausalBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens (N, T) to logits (N, T, vocabulary)."""
        x = self.embedding(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def language_model(vocabulary: int, context: int, width: int, depth: int, heads: int, tokens: int) -> Built:
    """A `LanguageModel` and a sequence."""
    return LanguageModel(vocabulary, context, width, depth, heads), torch.zeros(1, tokens, dtype=torch.long)


def _image(network: nn.Module, size: int) -> Built:
    return network, torch.zeros(1, 3, size, size)


KINDS: dict[str, Callable[..., Built]] = {
    "vgg": lambda stages: _image(vgg(stages), 32),
    "resnet50": lambda size: _image(resnet((3, 4, 6, 3), 64, bottleneck=True, imagenet_stem=True, classes=1000), size),
    "resnet": lambda width: _image(resnet((1, 1), width), 16),
    "wide_resnet": lambda depth, factor: _image(wide_resnet(depth, factor), 32),
    "vit": lambda width, depth, heads, patch, size: _image(VisionTransformer(width, depth, heads, patch, size, 1000), size),
    "gpt": language_model,
    "mlp": lambda inputs, width, depth: mlp(inputs, *(width,) * depth, 10),
}  # fmt: skip


def build(kind: str, sizes: Sequence[Any]) -> Built:
    """The network of a kind on the meta device, in eval mode, and one example input."""
    with torch.device("meta"):
        network, example = KINDS[kind](*sizes)
    return network.eval(), torch.zeros(example.shape, dtype=example.dtype)


def layout(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def random_tensor(name: str, like: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values for a parameter or buffer: N(0, 2 / fan-in) for weights, nothing left at a constant in biases, norms and statistics."""
    shape = tuple(like.shape)
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    values = torch.empty(shape)  # in float32 even for other types, which are drawn ten times slower
    if len(shape) > 1:
        values.normal_(0, 0.5 if "position" in name or "token" in name else math.sqrt(2 / math.prod(shape[1:])), generator=generator)
    elif name.endswith("running_var"):
        values.uniform_(0.5, 2.0, generator=generator)
    elif name.endswith(("bias", "running_mean")):
        values.normal_(0, 0.2, generator=generator)
    else:
        values.uniform_(0.5, 1.5, generator=generator)
    return values.to(dtype)


def parameter_count(tensors: Mapping[str, Tensor], network: nn.Module) -> int:
    """Entries of the parameters, tied ones once."""
    return sum(tensors[name].numel() for name, _ in network.named_parameters())
