"""Indices of shards that do not fit their shards, and paths at which there is no file."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from .sound import safetensors_bytes, some_key, state


def bad_index(rng: random.Random, folder: Path) -> Path:
    """Writes two sound shards and a bad index, or a sound index and bad shards."""
    tensors = state()
    keys = list(tensors)
    inside = folder / "model"
    inside.mkdir()
    parts = {"one.safetensors": keys[:3], "two.safetensors": keys[3:]}
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, inside / name)
    (folder / "outside.safetensors").write_bytes(safetensors_bytes())
    table: dict[Any, Any] = {key: name for name, part in parts.items() for key in part}
    content: Any = {"metadata": {"total_size": 1}, "weight_map": table}
    victim = some_key(rng)
    change = rng.choice(("path", "map", "text", "shard", "key"))
    text = None
    if change == "path":
        table[victim] = rng.choice((
            "../outside.safetensors", str(folder / "outside.safetensors"), "./one.safetensors", "a/../one.safetensors", "one.safetensors/", "..", "", "/etc/passwd", "one.pt", "three.safetensors",
            "~/one.safetensors", "file:///etc/passwd", "one.safetensors\x00", "\\\\host\\one.safetensors", "a" * 5000 + ".safetensors", "http://127.0.0.1/one.safetensors", "$HOME/one.safetensors", "*.safetensors",
        ))  # fmt: skip
    elif change == "map":
        content["weight_map"] = rng.choice(([], {}, None, 3, "one.safetensors", {victim: 3}, {victim: None}, {victim: ["one.safetensors"]}, list(table.items()), {victim: {}}))
    elif change == "text":
        sound = json.dumps(content)
        text = rng.choice(("", "{", "[" * 100_000, "null", "[]", sound[:-5], sound.replace(",", ",,", 1), '{"a":' * 50_000, sound[:-2] + f', "{victim}": "one.safetensors"}}}}', sound.replace("}", "", 1)))
    elif change == "key":
        if rng.random() < 0.5:
            table.pop(victim)
        else:
            table[rng.choice(("x", "../0.weight", ""))] = "one.safetensors"
    else:
        shard = inside / rng.choice(tuple(parts))
        damage = rng.choice(("cut", "gone", "folder", "empty", "dangling"))
        sound_bytes = shard.read_bytes()
        shard.unlink()
        if damage in ("cut", "empty"):
            shard.write_bytes(sound_bytes[: len(sound_bytes) * (damage == "cut") // 2])
        elif damage == "folder":
            shard.mkdir()
        elif damage == "dangling":
            shard.symlink_to(folder / "nowhere.safetensors")
    index = inside / "model.safetensors.index.json"
    index.write_text(json.dumps(content) if text is None else text, encoding="utf-8")
    return index


def no_file(rng: random.Random, folder: Path) -> Path:
    """A path that is missing, a folder, a loop of links, or a device."""
    path = folder / f"bad{rng.choice(('.safetensors', '.pt', '.bin', '.safetensors.index.json'))}"
    what = rng.choice(("missing", "folder", "loop", "dangling", "pipe", "device", "long", "inside a file"))
    if what == "folder":
        path.mkdir()
        if rng.random() < 0.5:
            (path / "notes.txt").write_text("no weights here")
    elif what == "loop":
        path.symlink_to(path)
    elif what == "dangling":
        path.symlink_to(folder / "nowhere")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "long":
        return folder / ("a" * 4000 + path.suffix)
    elif what == "inside a file":
        path.write_bytes(b"")
        return path / "model.safetensors"
    return path
