"""Modules with parameters that random networks are grown from, besides those of torch."""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Function(nn.Module):
    """A function without parameters."""

    def __init__(self, name: str, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def extra_repr(self) -> str:
        return self.name


class Over(nn.Module):
    """A module over values whose dimensions are reordered, and put back afterwards (by default the last two trade places)."""

    def __init__(self, module: nn.Module, order: tuple[int, ...] = (0, 2, 1), back: tuple[int, ...] = (0, 2, 1)) -> None:
        super().__init__()
        self.module, self.order, self.back = module, order, back

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.permute(self.order)).permute(self.back)


class Affine(nn.Module):
    """Parameters of any shape that are multiplied, added, or both."""

    def __init__(self, shape: tuple[int, ...], how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.randn(shape)) if how != "add" else None
        self.bias = nn.Parameter(torch.randn(shape)) if how != "mul" else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


class RootMeanSquare(nn.Module):
    """Division by the root of the mean square, written out (Zhang and Sennrich, 2019, 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)


class Transposed(nn.Module):
    """The transposed weight of another linear layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight.t())


class Gated(nn.Module):
    """down(f(gate x) * up x) (Shazeer, 2020, 2002.05202)."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    """Attention of one sequence (N, T, D) to another or to itself, written in several ways."""

    def __init__(self, width: int, memory: int, heads: int, size: int, how: str, fused: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.how, self.causal = heads, how, causal
        self.fused = nn.Linear(width, 3 * heads * size) if fused else None
        if not fused:
            self.q, self.k, self.v = nn.Linear(width, heads * size), nn.Linear(memory, heads * size), nn.Linear(memory, heads * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        parts = (self.q(x), self.k(memory), self.v(memory)) if self.fused is None else self.fused(x).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        if self.how == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = torch.einsum("bhtd,bhsd->bhts", q, k) if self.how == "einsum" else q @ k.transpose(-1, -2)
            scores = scores / q.shape[-1] ** 0.5
            if self.causal:
                hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(hidden, float("-inf"))
            weights = scores.softmax(-1)
            y = torch.einsum("bhts,bhsd->bhtd", weights, v) if self.how == "einsum" else weights @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Multihead(nn.Module):
    """torch's multi-head attention, its first output only."""

    def __init__(self, width: int, heads: int, need_weights: bool) -> None:
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(width, heads, batch_first=True), need_weights

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        return self.attention(x, memory, memory, need_weights=self.need_weights)[0]


class ChannelGate(nn.Module):
    """Channel gates from the spatial mean (Hu et al., 2017, 1709.01507)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    """x + f(x), with an operator of its own choice in between: out of place or in place."""

    def __init__(self, body: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.body, self.in_place = body, in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.in_place:
            y += x
            return y
        return x + y


class ClassToken(nn.Module):
    """A learned token before the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
