"""Files that were aligned here are read by mergekit, and its linear merge is ours.

mergekit has requirements of its own: install it into an environment of its own (docs/mergekit.md) and name its command in
GRAPHALIGN_MERGEKIT, or put it on the path; without it this file is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import torch
import yaml

from graphalign import load_state

MERGEKIT = os.environ.get("GRAPHALIGN_MERGEKIT") or shutil.which("mergekit-pytorch")
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS")}


@pytest.mark.skipif(not MERGEKIT, reason="needs mergekit-pytorch: name it in GRAPHALIGN_MERGEKIT")
@pytest.mark.parametrize("networks", [("a.safetensors", "b.safetensors"), ("c.pt", "d.pt")])
def test_a_linear_merge_of_aligned_files_is_ours(run, folder, networks):
    a, b = networks
    code = ("--arch", "nets.py:small") if a == "c.pt" else ()
    run("align", a, b, "--method", "weight", *code, "-o", "aligned.safetensors")
    if a == "c.pt":  # mergekit reads pickled checkpoints too; both of one kind is what it is made for
        torch.save(load_state("aligned.safetensors"), "aligned.pt")
    models = [(a, 0.3), ("aligned.pt" if a == "c.pt" else "aligned.safetensors", 0.7)]
    recipe = {
        "models": [{"model": str(folder / model), "parameters": {"weight": weight}} for model, weight in models],
        "merge_method": "linear",
        "dtype": "float32",
    }
    (folder / "theirs.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run([str(MERGEKIT), "theirs.yaml", "theirs"], cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe | {"align": False}))
    run("merge", "mine.yaml", "same")
    weights = [option for _, weight in models for option in ("--weight", str(weight))]
    run("merge", a, b, "-o", "ours", "--method", "weight", *code, *weights)
    theirs, ours, same = (load_state(folder / name / "model.safetensors") for name in ("theirs", "ours", "same"))
    assert theirs.keys() == ours.keys() == same.keys()
    for found in (ours, same):
        for key, tensor in found.items():
            torch.testing.assert_close(theirs[key].to(tensor.dtype), tensor, rtol=1e-6, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")
