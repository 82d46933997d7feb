"""Small networks: sine activations, shared weights, unusual inputs and outputs, and operators that must be refused.

networks.py merges these tables into `FAMILIES` and `UNSUPPORTED`.
"""

# mypy: disable-error-code="no-any-return"
# (nn.Module.__call__ returns Any)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .networks_attention import Factory, tokens


class Siren(nn.Module):
    """sin(omega_0 (W x + b)) layers (Sitzmann et al., 2020, 2006.09661)."""

    def __init__(self, omega: float = 30.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 9), nn.Linear(9, 7)])
        self.head, self.omega = nn.Linear(7, 3), omega

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.head(x)


class SharedLinear(nn.Module):
    """One square linear layer applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(8, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.shared(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.shared(h)))


class TiedAutoencoder(nn.Module):
    """W1, W2 encode; their transposes decode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(7, 8) / 3), nn.Parameter(torch.randn(4, 7) / 3)
        self.bias1, self.bias2, self.bias3 = (nn.Parameter(torch.randn(n)) for n in (7, 4, 7))

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(F.linear(torch.relu(F.linear(x, self.first, self.bias1)), self.second, self.bias2))
        return F.linear(torch.relu(F.linear(code, self.second.t(), self.bias3)), self.first.t())


def weight_normed() -> nn.Sequential:
    """Two layers with parametrised weights (g and v)."""
    return nn.Sequential(weight_norm(nn.Linear(8, 7)), nn.ReLU(), weight_norm(nn.Linear(7, 6)), nn.ReLU(), nn.Linear(6, 3))


# Inputs and outputs


class TwoInputs(nn.Module):
    """Two inputs of different width, added in the hidden layer, with an optional keyword-only scale of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 7), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor, context: Tensor, *, scale: Tensor | None = None) -> Tensor:
        side = self.right(context)
        return self.head(torch.relu(self.left(x) + (side if scale is None else side * scale)))


@dataclass
class Output:
    """What a network with several results returns."""

    logits: Tensor
    features: Tensor | None = None


torch.export.register_dataclass(Output)


class StructuredOutput(nn.Module):
    """Logits and a second output in a dict or in a dataclass."""

    def __init__(self, kind: Literal["dict", "dataclass"]) -> None:
        super().__init__()
        self.body, self.head, self.side, self.kind = nn.Linear(8, 7), nn.Linear(7, 3), nn.Linear(7, 2), kind

    def forward(self, x: Tensor) -> dict[str, Tensor] | Output:
        h = torch.relu(self.body(x))
        logits, features = self.head(h), self.side(h)
        return {"logits": logits, "features": features} if self.kind == "dict" else Output(logits, features)


class Refused(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.second = nn.Linear(8, 6), function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def branch_on_sum(h: Tensor) -> Tensor:
    """Python control flow on values."""
    return torch.relu(h) if h.sum() > 0 else torch.tanh(h)


def invert_gram(h: Tensor) -> Tensor:
    """h (I + h^T h)^-1: a matrix inverse over the units."""
    return h @ torch.linalg.inv(torch.eye(6, dtype=h.dtype) + h.mT @ h)


# Tables


UNUSUAL_FAMILIES: dict[str, Factory] = {
    "siren": tokens(Siren),
    "shared_linear": tokens(SharedLinear),
    "tied_autoencoder": tokens(TiedAutoencoder),
    "weight_norm": tokens(weight_normed),
    "two_inputs": lambda: (TwoInputs(), (torch.randn(2, 8), torch.randn(2, 6)), {}),
    "keyword_inputs": lambda: (TwoInputs(), (), {"x": torch.randn(2, 8), "context": torch.randn(2, 6)}),
    "mixed_inputs": lambda: (TwoInputs(), (torch.randn(2, 8),), {"context": torch.randn(2, 6), "scale": torch.rand(2, 1)}),
    "dict_output": tokens(lambda: StructuredOutput("dict")),
    "dataclass_output": tokens(lambda: StructuredOutput("dataclass")),
}

UNUSUAL_UNSUPPORTED: dict[str, Factory] = {
    "control_flow": tokens(lambda: Refused(branch_on_sum)),
    "matrix_inverse": tokens(lambda: Refused(invert_gram)),
    "sort": tokens(lambda: Refused(lambda h: torch.sort(h, -1).values)),
    "fourier": tokens(lambda: Refused(lambda h: torch.fft.fft(h, dim=-1).abs())),
}
