"""Random networks with an operation in them that has no rule, or a use of a known one that its rule does not cover."""

# mypy: disable-error-code="no-any-return"
# (torch's functions return Any)

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grown import RandomNetwork, extend, seeded, started
from .layers import Function
from .operations import width


class Recurrent(nn.Module):
    """The outputs of a recurrent layer over (N, T, D); vectors are sequences of one."""

    def __init__(self, kind: Callable[..., nn.Module], features: int) -> None:
        super().__init__()
        self.layer = kind(features, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.reshape(x.shape[0], -1, x.shape[-1]))[0]
        return y if x.dim() == 3 else y[:, 0]


class Bilinear(nn.Module):
    """A bilinear form of a value and itself."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.Bilinear(features, features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


def _gram(x: Tensor) -> Tensor:
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.eye(x.shape[-1], dtype=x.dtype) + flat.mT @ flat


def _by_data(x: Tensor) -> Tensor:
    return torch.relu(x) if x.sum() > 0 else torch.tanh(x)


def _as_number(x: Tensor) -> Tensor:
    return x * float(x.mean())


def _of_data_size(x: Tensor) -> Tensor:
    return x + x[x > 0].sum()


def _scattered(x: Tensor) -> Tensor:
    return x.scatter(-1, (x > 0).long(), 1.0)


def _put(x: Tensor) -> Tensor:
    return x.index_put((torch.zeros(1, dtype=torch.long),), torch.ones(x.shape[1:], dtype=x.dtype))


# function -> the operator, or the words, that the message must name
FUNCTIONS: dict[Callable[[Tensor], Tensor], str] = {
    lambda x: x.sort(-1).values: "aten.sort", lambda x: x * x.argsort(-1): "aten.argsort", lambda x: torch.fft.fft(x).abs(): "aten.fft_fft", lambda x: torch.fft.rfft(x).abs(): "aten.fft_rfft",
    lambda x: torch.fft.ifft(x).real: "aten.fft_ifft", lambda x: x.cummax(-1).values: "aten.cummax", lambda x: x.cummin(-1).values: "aten.cummin", lambda x: torch.cdist(x, x): "aten.cdist",
    lambda x: x @ torch.linalg.inv(_gram(x))[0]: "aten.linalg_inv", lambda x: x @ torch.linalg.cholesky(_gram(x))[0]: "aten.linalg_cholesky", lambda x: x @ torch.linalg.eigh(_gram(x)).eigenvectors[0]: "aten.linalg_eigh",
    lambda x: x @ torch.linalg.qr(_gram(x)).Q[0]: "aten.linalg_qr", lambda x: x * torch.linalg.det(_gram(x)).mean(): "aten.linalg_det", lambda x: x @ torch.linalg.matrix_exp(-_gram(x))[0]: "aten.linalg_matrix_exp",
    lambda x: x @ torch.linalg.pinv(_gram(x))[0]: "aten.linalg_pinv", lambda x: torch.logaddexp(x, x.flip(-1)): "aten.logaddexp", lambda x: x * F.cosine_similarity(x, x.roll(1, -1), -1).unsqueeze(-1): "aten.cosine_similarity",
    lambda x: x / (torch.aminmax(x, dim=-1, keepdim=True)[1] + 5): "aten.aminmax", lambda x: x - x.quantile(0.3, -1, keepdim=True): "aten.quantile", lambda x: x - x.nanmedian(-1, keepdim=True).values: "aten.nanmedian",
    _scattered: "aten.scatter", _put: "aten.index_put", lambda x: torch.bucketize(x, torch.arange(3.0, dtype=x.dtype)).to(x): "aten.bucketize", lambda x: x.msort(): "aten.msort",
    lambda x: x.renorm(2, 0, 1.0): "aten.renorm", lambda x: torch.polygamma(1, x.abs() + 1): "aten.polygamma", lambda x: torch.igamma(x.abs() + 1, x.abs()): "aten.igamma", lambda x: torch.histc(x, 4).sum() + x: "aten.histc",
    lambda x: x.index_add(0, torch.zeros(1, dtype=torch.long), x[:1]): "aten.index_add", lambda x: torch.searchsorted(torch.arange(3.0, dtype=x.dtype), x.contiguous()).to(x): "aten.searchsorted", lambda x: x * x.cov().sum() if x.dim() == 2 else x.sort(1).values: "aten.",
    lambda x: torch.special.bessel_j0(x): "aten.special_bessel_j0", lambda x: x.take(torch.arange(3)).sum() + x: "aten.take", lambda x: torch.nextafter(x, x + 1): "aten.nextafter", lambda x: torch.ldexp(x, x.round().clamp(-2, 2)): "aten.ldexp",
    _by_data: "branches on the values of its data", _as_number: "values of its data", _of_data_size: "aten.",
}  # fmt: skip
MODULES: dict[Callable[[int], nn.Module], str] = {
    lambda n: Recurrent(nn.LSTM, n): "aten.lstm", lambda n: Recurrent(nn.GRU, n): "aten.gru", lambda n: Recurrent(nn.RNN, n): "aten.rnn_tanh", Bilinear: "aten.bilinear",
}  # fmt: skip
CAUSES = tuple(sorted({*FUNCTIONS.values(), *MODULES.values()}))


def spoiled(seed: int) -> tuple[RandomNetwork, tuple[Tensor, ...], str]:
    """A random network with such an operation right behind a layer whose units may move; its example input, and what the message must name."""
    with seeded(seed):
        growth = started(random.Random(seed))
        extend(growth, growth.rng.randint(1, 6))
        place = growth.pick(lambda v: v.is_floating_point() and v.dim() in (2, 3))
        if place is None:  # images only: one vector of them
            growth.add("global mean", Function("global mean", lambda x: x.mean((2, 3))), len(growth.values) - 1)
            place = len(growth.values) - 1
        units = width(growth.rng)
        growth.add("linear", nn.Linear(growth.values[place].shape[-1], units), place)
        last = len(growth.values) - 1
        table = FUNCTIONS if growth.rng.random() < 0.85 else MODULES
        made, cause = growth.rng.choice(list(table.items()))  # type: ignore[attr-defined]
        module = Function(cause, made) if table is FUNCTIONS else made(units)
        if not growth.add(cause, module, last):
            raise AssertionError(f"{cause} makes nothing that can be read")
        extend(growth, len(growth.steps) + growth.rng.randint(0, 3))
        return *growth.network(), cause
