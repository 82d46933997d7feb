"""Small networks: norms, gates, attention and what is built of them.

networks.py merges this table into `FAMILIES`. Sequences are (2, 5 tokens, 8 features) unless said.
"""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Factory = Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]
TOKENS, WIDTH, HEADS = 5, 8, 2


# Norms


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, written out (Zhang and Sennrich, 2019, 1910.07467)."""

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(features)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, pointwise MLP in channels-last, layer scale gamma (Liu et al., 2022, 2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, 9), nn.Linear(9, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Sequential:
    """Patch stem, block, LayerNorm2d and strided downsampling, block, head."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 2, stride=2), LayerNorm2d(6), ConvNeXtBlock(6),
        LayerNorm2d(6), nn.Conv2d(6, 7, 2, stride=2), ConvNeXtBlock(7),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(7), nn.Linear(7, 4),
    )  # fmt: skip


def normed_mlp(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """A norm after each of two hidden layers."""
    return nn.Sequential(nn.Linear(8, 9), norm(9), nn.GELU(), nn.Linear(9, 7), norm(7), nn.GELU(), nn.Linear(7, 3))


class ChannelScale(nn.Module):
    """A learned scale and shift per feature, as bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 7), nn.Linear(7, 3)
        self.alpha, self.beta = nn.Parameter(torch.ones(7)), nn.Parameter(torch.zeros(1, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x) * self.alpha + self.beta))


# Attention


class MultiheadNet(nn.Module):
    """nn.MultiheadAttention as self- or cross-attention, residual, between two linear layers."""

    def __init__(self, *, batch_first: bool = True, bias: bool = True, need_weights: bool = False, cross: bool = False) -> None:
        super().__init__()
        sizes = {"kdim": 6, "vdim": 7} if cross else {}
        self.embed, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)
        self.key: nn.Module = nn.Linear(8, 6) if cross else nn.Identity()
        self.value: nn.Module = nn.Linear(8, 7) if cross else nn.Identity()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first, **sizes)
        self.cross, self.need_weights = cross, need_weights

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, ...]:
        h = self.embed(x)
        source = h if memory is None else memory
        y, weights = self.attention(h, self.key(source), self.value(source), need_weights=self.need_weights)
        out = self.head(h + y)
        return (out, weights) if self.need_weights else (out,)


class Stack(nn.Module):
    """An nn.TransformerEncoderLayer or DecoderLayer between two linear layers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(8, WIDTH), layer, nn.Linear(WIDTH, 3)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.head(self.layer(*map(self.embed, inputs)))


def encoder_layer(norm_first: bool, activation: str) -> Stack:
    """PyTorch's encoder layer."""
    return Stack(nn.TransformerEncoderLayer(WIDTH, HEADS, 9, activation=activation, norm_first=norm_first, batch_first=True))


def decoder_layer() -> Stack:
    """PyTorch's decoder layer: self-attention, cross-attention to the second input, MLP."""
    return Stack(nn.TransformerDecoderLayer(WIDTH, HEADS, 9, batch_first=True))


class FusedBlock(nn.Module):
    """Pre-norm block with one qkv linear, split by reshape, permute and unbind (ViT) or by chunk (GPT)."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.qkv, self.project = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        if self.causal:
            q, k, v = (part.view(n, t, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        else:
            q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.project(y.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patch convolution, class token, learned positions, blocks (Dosovitskiy et al., 2020, 2010.11929)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.cls_token, self.position = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.blocks = nn.Sequential(FusedBlock(WIDTH, HEADS), FusedBlock(WIDTH, HEADS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """Token and position embeddings, causal blocks, the token embedding again as output head (GPT-2)."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(11, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.Sequential(FusedBlock(WIDTH, HEADS, causal=True), FusedBlock(WIDTH, HEADS, causal=True))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 11, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of (N, heads, T, D): feature i is paired with i + D/2 (Su et al., 2021, 2104.09864)."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(half, dtype=x.dtype)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class GatedMLP(nn.Module):
    """A gate times a value (Shazeer, 2020, 2002.05202): two linear layers (swiglu, geglu) or one, split by F.glu (glu)."""

    def __init__(self, kind: Literal["swiglu", "geglu", "glu"], features: int = 8, hidden: int = 7, out: int = 3) -> None:
        super().__init__()
        self.kind = kind
        self.gate = nn.Linear(features, 2 * hidden if kind == "glu" else hidden, bias=False)
        self.value = nn.Identity() if kind == "glu" else nn.Linear(features, hidden, bias=False)
        self.project = nn.Linear(hidden, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "glu":
            return self.project(F.glu(self.gate(x), -1))
        activation = F.silu if self.kind == "swiglu" else F.gelu
        return self.project(activation(self.gate(x)) * self.value(x))


class LlamaBlock(nn.Module):
    """RMSNorm, RoPE, grouped-query attention (4 query heads, 2 key-value heads), SwiGLU, no bias."""

    def __init__(self, width: int = 16, *, norm: Callable[[int], nn.Module] = RMSNorm) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.q, self.k, self.v = (nn.Linear(width, out, bias=False) for out in (16, 8, 8))
        self.o, self.mlp = nn.Linear(16, width, bias=False), GatedMLP("swiglu", width, 9, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(n, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (rotate(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        y = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, -1))
        return x + self.mlp(self.norm2(x))


def llama() -> nn.Sequential:
    """Embedding, two blocks (hand-written norm, nn.RMSNorm), untied head."""
    head = nn.Linear(16, 11, bias=False)
    return nn.Sequential(nn.Embedding(11, 16), LlamaBlock(), LlamaBlock(norm=nn.RMSNorm), nn.RMSNorm(16), head)


class EinsumAttention(nn.Module):
    """Attention written with einsum and weights of shape (features, heads, head features)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)
        self.query, self.key, self.value = (nn.Parameter(torch.randn(WIDTH, HEADS, 4) / 3) for _ in range(3))
        self.out = nn.Parameter(torch.randn(HEADS, 4, WIDTH) / 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = (torch.einsum("btd,dhk->bthk", h, w) for w in (self.query, self.key, self.value))
        scores = torch.softmax(torch.einsum("bqhk,bthk->bhqt", q, k) / 2.0, -1)
        return self.head(h + torch.einsum("bhqt,bthk,hkd->bqd", scores, v, self.out))


class Mixer(nn.Module):
    """MLP-Mixer block over tokens and then over features (Tolstikhin et al., 2021, 2105.01601)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)
        self.norm1, self.tokens = nn.LayerNorm(WIDTH), nn.Sequential(nn.Linear(TOKENS, 6), nn.GELU(), nn.Linear(6, TOKENS))
        self.norm2, self.features = nn.LayerNorm(WIDTH), nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.features(self.norm2(x))
        return self.head(x.mean(1))


# Tables


def tokens(build: Callable[[], nn.Module]) -> Factory:
    """Factory of a network that takes (2, TOKENS, 8)."""
    return lambda: (build(), (torch.randn(2, TOKENS, 8),), {})


def two_sequences(build: Callable[[], nn.Module], features: int) -> Factory:
    """Factory of a network that takes (2, TOKENS, 8) and a memory of 4 tokens."""
    return lambda: (build(), (torch.randn(2, TOKENS, 8), torch.randn(2, 4, features)), {})


def words(build: Callable[[], nn.Module]) -> Factory:
    """Factory of a network that takes token numbers (2, TOKENS) below 11."""
    return lambda: (build(), (torch.randint(11, (2, TOKENS)),), {})


def pictures(build: Callable[[], nn.Module]) -> Factory:
    """Factory of a network that takes (2, 3, 8, 8)."""
    return lambda: (build(), (torch.randn(2, 3, 8, 8),), {})


ATTENTION_FAMILIES: dict[str, Factory] = {
    "layer_norm_mlp": tokens(lambda: normed_mlp(nn.LayerNorm)),
    "rms_norm_mlp": tokens(lambda: normed_mlp(RMSNorm)),
    "rms_norm_builtin_mlp": tokens(lambda: normed_mlp(nn.RMSNorm)),
    "channel_scale": tokens(ChannelScale),
    "convnext": pictures(convnext),
    "attention": tokens(MultiheadNet),
    "attention_no_bias": tokens(lambda: MultiheadNet(bias=False)),
    "attention_sequence_first": tokens(lambda: MultiheadNet(batch_first=False)),
    "attention_weights": tokens(lambda: MultiheadNet(need_weights=True)),
    "attention_weights_sequence_first_no_bias": tokens(lambda: MultiheadNet(need_weights=True, batch_first=False, bias=False)),
    "attention_cross": two_sequences(lambda: MultiheadNet(cross=True), 8),
    "attention_cross_no_bias": two_sequences(lambda: MultiheadNet(cross=True, bias=False), 8),
    "attention_einsum": tokens(EinsumAttention),
    "encoder_layer_relu": tokens(lambda: encoder_layer(False, "relu")),
    "encoder_layer_gelu": tokens(lambda: encoder_layer(False, "gelu")),
    "encoder_layer_norm_first_relu": tokens(lambda: encoder_layer(True, "relu")),
    "encoder_layer_norm_first_gelu": tokens(lambda: encoder_layer(True, "gelu")),
    "decoder_layer": two_sequences(decoder_layer, 8),
    "vit": pictures(ViT),
    "gpt": words(GPT),
    "gpt_untied": words(lambda: GPT(tied=False)),
    "llama": words(llama),
    "mixer": tokens(Mixer),
    "swiglu": tokens(lambda: GatedMLP("swiglu")),
    "geglu": tokens(lambda: GatedMLP("geglu")),
    "glu": tokens(lambda: GatedMLP("glu")),
}
