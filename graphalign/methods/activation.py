"""Activation matching: units whose activations on the same inputs are alike (Li et al. 2016, arXiv 1511.07543).

One pass over the data, one assignment per group of cells, no iteration (Ainsworth et al. 2023, arXiv 2209.04836, section 3.1;
Jordan et al. 2023, arXiv 2211.08403). The scores of a cell are correlations, covariances or inner products of the activations of
every unit of A with every unit of B; the assignment maximises their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphalign.activations import Kind, Synthetic, check_settings, scores
from graphalign.assignment import assign_spec
from graphalign.methods.problem import Problem, Solution


@dataclass(frozen=True)
class Activation:
    """Permutations that maximise the similarity of activations, on data or on random inputs.

    Attributes:
        kind: "correlation", which no unit dominates; "covariance"; or "inner_product", not centred, in which units with large
            means dominate.
        max_positions: positions and tokens of one activation that are compared, per batch of the example's size; all if None.
        samples: number of random inputs where there are no data; if None, as many as the encoder uses for this network.
        synthetic: random inputs: "gaussian" (white noise), or "images" (smooth noise and dead leaves where the input is an image).

    Raises:
        InvalidInput: a setting with a value that is not listed here.
    """

    kind: Kind = "correlation"
    max_positions: int | None = None
    samples: int | None = None
    synthetic: Synthetic = "gaussian"

    def __post_init__(self) -> None:
        check_settings(self.kind, self.max_positions, self.samples, self.synthetic)

    def __call__(self, problem: Problem) -> Solution:
        """The solution of a problem; its objective is the sum of the scores of matched units.

        Raises:
            InvalidInput: the architecture is unknown, data that do not fit the network, activations that are not finite.
        """
        problem.require("activation", "architecture")
        assert problem.architecture is not None
        found = scores(
            problem.architecture, problem.a, problem.b, problem.data, kind=self.kind, max_positions=self.max_positions,
            samples=self.samples, synthetic=self.synthetic, seed=problem.seed,
        )  # fmt: skip
        permutations = assign_spec(problem.spec, found)
        matched = [found[name].gather(1, perm[:, None].to(found[name].device)) for name, perm in permutations.items()]
        return Solution(permutations, found, float(sum(values.double().sum() for values in matched)))
