"""Exact optimal transport: our plans beside those of POT and of linear assignment on costs computed here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphalign import group
from graphalign.assignment import assign
from graphalign.bench.networks import build
from graphalign.converters.trace import trace_architecture
from graphalign.methods.coupling import require_pot
from graphalign.methods.transport import Transport


def measure_transport(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Largest differences between the plans for one hidden layer of two independent MLPs.

    Raises:
        InvalidInput: POT is missing.
    """
    ot = require_pot()
    networks = [build("mlp", (job["inputs"], width, 10)) for width in job["widths"]]
    architectures = trace_architecture(*networks[0]), trace_architecture(*networks[1])
    a, b = (group.all_tensors(network) for network, _ in networks)
    (plan,) = Transport().plan(architectures, a, b).plans.values()

    rows_a, rows_b = (torch.cat([state["0.weight"], state["0.bias"][:, None]], 1).double() for state in (a, b))
    cost = torch.cdist(rows_a, rows_b, compute_mode="donot_use_mm_for_euclid_dist")
    masses = [torch.full((width,), 1 / width, dtype=torch.float64) for width in job["widths"]]
    expected = torch.as_tensor(ot.emd(*(m.numpy() for m in masses), (cost / cost.max()).numpy()))
    facts = {"from_pot": float((plan - expected).abs().max()), "from_assignment": None}
    if len(rows_a) == len(rows_b):
        permuted = torch.eye(len(cost), dtype=torch.float64)[assign(-cost)] / len(cost)
        facts["from_assignment"] = float((plan - permuted).abs().max())
    print(f"transport {job['widths'][1]} to {job['widths'][0]} units: {facts}", file=sys.stderr, flush=True)
    return facts
