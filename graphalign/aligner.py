"""The aligner: encoder, product, log-domain Sinkhorn and linear assignment, as one model for every architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from graphalign.architecture import Architecture
from graphalign.assignment import assign_spec
from graphalign.encoder import encode_pair
from graphalign.errors import CorruptFile, InvalidInput
from graphalign.files import atomic_write, load_state, save_state
from graphalign.soft import SoftPermutation, soft_permutations
from graphalign.spec import NetworkSpec
from graphalign.weight_costs import similarity_cosine


@dataclass(frozen=True)
class AlignerConfig:
    """Settings of an aligner that are not learned.

    Attributes:
        codes: number of codes per network; None lets the cost of the network decide.
        rounds: cross-network rounds, in which weights meet the permutations found so far.
        sinkhorn_iterations: of `soft_permutations`.
    """

    codes: int | None = None
    rounds: int = 2
    sinkhorn_iterations: int = 20


class Aligner(nn.Module):
    """Predicts the permutations that align two networks of one architecture, in one pass.

    Scores of units i of A and j of B in a cell: S = forward * correlation of forward states + backward * cosine of backward
    states + kernel * cosine of the weights under the permutations of the neighbouring cells (one round after the other).
    The scalars are the model's parameters; they do not depend on the architecture.
    """

    def __init__(self, config: AlignerConfig | None = None) -> None:
        super().__init__()
        self.config = config or AlignerConfig()
        self.forward_weight = nn.Parameter(torch.tensor(1.0))
        self.backward_weight = nn.Parameter(torch.tensor(0.3))
        self.kernel_weight = nn.Parameter(torch.tensor(0.5))
        self.temperature = nn.Parameter(torch.tensor(0.05))

    def scores(
        self, architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int = 0
    ) -> dict[str, Tensor]:
        """Scores by cell, (U, U): rows are units of A, columns units of B.

        F(gA, hB) = g F(A, B) h^T for all g, h of the spec's group, and F(B, A) = F(A, B)^T.

        Args:
            architecture: shared by the two networks.
            a: parameters and buffers of A by state-dict key.
            b: those of B.
            seed: of the codes.
        """
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in a.values()) else torch.float32
        a, b = ({n: t.detach().to(dtype) if t.is_floating_point() else t for n, t in s.items()} for s in (a, b))
        agreement = encode_pair(architecture, a, b, seed=seed, codes=self.config.codes)
        spec = architecture.spec
        states = {
            cell.name: self.forward_weight * agreement.forward[cell.name] + self.backward_weight * agreement.backward[cell.name]
            for cell in spec.cells
        }
        scores = states
        for _ in range(self.config.rounds):
            element = assign_spec(spec, scores)
            kernels = kernel_agreement(spec, a, b, element)
            scores = {name: states[name] + self.kernel_weight * kernels[name] for name in states}
        return scores

    def permutations(
        self, architecture: Architecture, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int = 0
    ) -> dict[str, Tensor]:
        """The permutations of B's units into A's slots that maximise the scores; LongTensor (U,) by cell."""
        with torch.no_grad():
            return assign_spec(architecture.spec, self.scores(architecture, a, b, seed=seed))

    def soft_permutations(self, spec: NetworkSpec, scores: Mapping[str, Tensor]) -> dict[str, SoftPermutation]:
        """Doubly stochastic matrices by cell, by Sinkhorn of scores / temperature, for training."""
        soft = {name: s / self.temperature for name, s in scores.items()}
        return soft_permutations(spec, soft, self.config.sinkhorn_iterations)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors into a folder, each atomically; existing ones are replaced."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_state({n: p.detach() for n, p in self.state_dict().items()}, folder / "model.safetensors", force=True)
        with atomic_write(folder / "config.json", force=True) as draft:
            draft.write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> Aligner:
        """The aligner saved in a folder; without one the default aligner, whose scalars are those of the class.

        Raises:
            InvalidInput: the folder has no config.json or model.safetensors.
            CorruptFile: the files cannot be read or belong to another model.
        """
        if folder is None:
            return cls()
        folder = Path(folder)
        missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
        if missing:
            raise InvalidInput(f"{folder}: found no {' and no '.join(missing)}; pass a folder that save_pretrained wrote")
        try:
            aligner = cls(AlignerConfig(**json.loads((folder / "config.json").read_text())))
            aligner.load_state_dict(load_state(folder / "model.safetensors"))
        except (TypeError, ValueError, RuntimeError) as error:
            raise CorruptFile(f"{folder}: the aligner in it cannot be read ({error})") from None
        return aligner


def kernel_agreement(
    spec: NetworkSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], element: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Cosine of the weights of unit i of A and unit j of B with the neighbours of B permuted by `element`; (U, U) by cell."""
    result = {}
    for cell in spec.cells:
        by_slot = similarity_cosine(spec, cell, a, b, element)
        result[cell.name] = by_slot[:, torch.argsort(element[cell.name]).to(by_slot.device)]
    return result
