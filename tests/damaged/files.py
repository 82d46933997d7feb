"""Files that are no sound safetensors files, torch checkpoints or indices of shards."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .sound import header, safetensors_bytes, saved, some_key, state, torch_bytes, with_header
from .weights import NAMES, bad_checkpoint, bad_weights, other_network

Content = tuple[str, bytes]
ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
HUGE = (2**31, 2**40, 2**53, 2**63, 2**64 - 1, -1, 10**30)
CANARY = "canary"
"""The file that code in the bad files would write, in the folder of the bad file."""


def flipped(rng: random.Random, content: bytes, first: int, last: int) -> bytes:
    """One to three bytes between two places changed."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(first, min(last, len(changed)))
        changed[place] ^= 1 << rng.randrange(8) if rng.random() < 0.7 else rng.randrange(1, 256)
    return bytes(changed)


# -- safetensors -------------------------------------------------------------------------------------------------------------


def _cut(rng: random.Random) -> Content:
    ending = rng.choice(ENDINGS)
    content = safetensors_bytes() if ending == ".safetensors" else torch_bytes(rng.random() < 0.3)
    return ending, content[: rng.randrange(len(content))]


def _flipped_header(rng: random.Random) -> Content:
    content = safetensors_bytes()
    return ".safetensors", flipped(rng, content, 0, 8 + int.from_bytes(content[:8], "little"))


def _length(rng: random.Random) -> Content:
    content, wanted = safetensors_bytes(), rng.choice((0, 1, 7, 10**8 + 1, 2**40, 2**63, 2**64 - 1, rng.randrange(2**64), rng.randrange(400)))
    return ".safetensors", (wanted % 2**64).to_bytes(8, "little") + content[8:]


def _entry(rng: random.Random) -> Content:
    found = header()
    entry = found[some_key(rng)]
    field = rng.choice(("dtype", "shape", "data_offsets", "more", "gone"))
    values: dict[str, tuple[Any, ...]] = {
        "dtype": ("F64", "I8", "U64", "F99", "", None, 3, "f32", "BOOL", "C64", "F8_E4M3", "BF16", ["F32"]),
        "shape": ([2], [], [4, 7], None, "4", [-1], [4.5], [2**63], [2**32, 2**32], [rng.choice(HUGE)], [True], [[4]], [0, 3]),
        "data_offsets": ([0, 1], [4, 0], [], [0], None, [-4, 0], [0, rng.choice(HUGE)], [rng.choice(HUGE)] * 2, "0-4", [0.0, 4.0], {"0": 4}),
    }
    if field == "gone":
        entry.pop(rng.choice(list(entry)))
    elif field == "more":
        found[rng.choice(NAMES)] = rng.choice((None, 3, [], {}, dict(entry), {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}))  # type: ignore[assignment]
    else:
        entry[field] = rng.choice([v for v in values[field] if v != entry[field]])
    return ".safetensors", with_header(json.dumps(found))


def _header_text(rng: random.Random) -> Content:
    text = json.dumps(header())
    key = json.dumps(some_key(rng))
    deep = rng.choice((100, 10_000, 200_000))
    return ".safetensors", with_header(rng.choice((
        lambda: "[]", lambda: "null", lambda: "", lambda: "{", lambda: text[:-1], lambda: text + text, lambda: "[" * deep, lambda: '{"a":' * deep, lambda: text[:-1] + "," + text[1:],
        lambda: text.replace(key, '"\\ud800"'), lambda: text.replace(key, '"\ud800"'), lambda: text[:-1] + f', {key}: {json.dumps(header()["0.bias"])}}}',
        lambda: '{"__metadata__": 3}', lambda: text[:-1] + ', "__metadata__": {"a": 1}}', lambda: text.replace("F32", "F" + "3" * 100_000), lambda: b"\xff\xfe" + text.encode("utf-16"),
        lambda: '{"__metadata__": {"format": "pt"}}', lambda: " " * 3_000_000 + "{}", lambda: text.replace("[", "[" + "9" * 5000 + ",", 1), lambda: text.replace(":", ";", 1),
    ))())  # fmt: skip


def _more_or_less_data(rng: random.Random) -> Content:
    content = safetensors_bytes()
    return ".safetensors", content + rng.randbytes(rng.randint(1, 4000)) if rng.random() < 0.5 else content[: -rng.randint(1, 300)]


# -- torch -------------------------------------------------------------------------------------------------------------------


class Code:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def _code(rng: random.Random, folder: Path) -> Content:
    canary = folder / CANARY
    traps = (
        Code(Path.touch, canary), Code(os.system, f"touch {canary}"), Code(eval, f"open({str(canary)!r}, 'w')"), Code(exec, f"open({str(canary)!r}, 'w')"), Code(os.mkdir, str(canary)),
        Code(open, str(canary), "w"), Code(torch.save, {}, str(canary)), Code(shutil.copy, __file__, canary), Code(__import__, "this"), Code(torch.load, str(folder / "x.pt")),
    )  # fmt: skip
    trap = rng.choice(traps)
    content = rng.choice((trap, {**state(), "trap": trap}, {"state_dict": state(), "trap": [trap]}, {"state_dict": {"0.weight": trap}}, [trap]))
    ending = rng.choice((".pt", ".pth", ".bin"))
    return ending, pickle.dumps(content, rng.randint(0, 5)) if rng.random() < 0.4 else saved(content, rng.random() < 0.3)


def _module(rng: random.Random) -> Content:
    network: Any = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
    return ".pt", saved(rng.choice((network, {"model": network}, torch.optim.Adam(network.parameters()), [Exception("x")], {"rng": random.Random(0)})), rng.random() < 0.3)


def _flipped_checkpoint(rng: random.Random) -> Content:
    content = torch_bytes(rng.random() < 0.3)
    return rng.choice((".pt", ".bin")), flipped(rng, content, 0, len(content))


def _flipped_pickle(rng: random.Random) -> Content:
    """The pickle in the archive changed, with its checksum made right again."""
    stream, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(torch_bytes()))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for entry in source.infolist():
            content = source.read(entry)
            archive.writestr(entry.filename, flipped(rng, content, 0, len(content)) if entry.filename.endswith("data.pkl") else content)
    return ".pt", stream.getvalue()


def _archive(rng: random.Random) -> Content:
    """An archive with entries added, taken out, twice in it, or packed."""
    stream, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(torch_bytes()))
    change = rng.choice(("gone", "packed", "bomb", "twice", "names", "empty", "short"))
    names = [entry.filename for entry in source.infolist()]
    victim = rng.choice([n for n in names if n.endswith("data.pkl") or "/data/" in n])
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if change == "packed" else zipfile.ZIP_STORED) as archive:
        for name in names if change != "empty" else []:
            content = source.read(name)
            if change == "gone" and name == victim:
                continue
            if change == "short" and name == victim:
                content = content[: len(content) // 2]
            if change == "bomb" and name == victim:
                archive.writestr(name, bytes(rng.choice((1, 8)) << 20), zipfile.ZIP_DEFLATED)
                continue
            archive.writestr(f"../{name}" if change == "names" else name, content)
            if change == "twice" and name == victim:
                archive.fp.write(b"") if archive.fp else None
                archive.NameToInfo.pop(name)
                archive.writestr(name, content[::-1])
    return rng.choice((".pt", ".pth")), stream.getvalue()


def _pickle(rng: random.Random) -> Content:
    """Pickle programs written by hand: endless structures, lengths that lie, unknown instructions."""
    programs = (
        b"\x80\x02]" + b"q\x00(h\x00h\x00e" * 60 + b".", b"\x80\x02(" + b"(" * 5000 + b".", b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"x.", b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b"1.",
        b"\x80\x02]" + b"]a" * 5000 + b".", b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.", b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".", rng.randbytes(rng.randint(1, 400)), b"\x80\x02c__builtin__\neval\n(S'1'\ntR.",
        b"\x80\x02cos\nsystem\n(S'touch canary'\ntR.", b"I1\n" * 1000 + b".", b"\x80\x02B" + (1 << 31).to_bytes(4, "little") + b".", b"\x80\x02ctorch\nTensor\n)R.", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    )  # fmt: skip
    return rng.choice((".pt", ".bin")), rng.choice(programs)


# -- something else ----------------------------------------------------------------------------------------------------------


def _something_else(rng: random.Random) -> Content:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("pickle", "storages", "tensors", "sys_info"):
            archive.addfile(tarfile.TarInfo(name))
    contents = (
        b"", b"\0", bytes(rng.randint(1, 5000)), rng.randbytes(rng.randint(1, 5000)), b"<!DOCTYPE html><html>404</html>" * 9, gzip.compress(safetensors_bytes()), b"PK\x03\x04", b"PK\x05\x06" + bytes(18),
        b"import os\nos.system('touch canary')\n", json.dumps(header()).encode(), b"\x89PNG\r\n\x1a\n" + bytes(40), b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 400\n", stream.getvalue(),
        b"\x7fELF" + bytes(60), "0.weight: [1, 2]".encode("utf-16"), b"\x80", b"\xff" * 16, b"{}", safetensors_bytes()[8:], torch_bytes()[1:], b"\x00" * 8 + b"{}",
    )  # fmt: skip
    return rng.choice(ENDINGS), rng.choice(contents)


def _swapped_endings(rng: random.Random) -> Content:
    return (".safetensors", torch_bytes(rng.random() < 0.5)) if rng.random() < 0.5 else (rng.choice(ENDINGS[1:]), safetensors_bytes())


def _unknown_ending(rng: random.Random) -> Content:
    return rng.choice((".onnx", ".h5", "", ".safetensors.bak", ".PT", ".json", ".pkl", ".npz", ".index.json", ".py")), safetensors_bytes()


CONTENTS: dict[str, Callable[[random.Random], Content]] = {
    "cut": _cut, "flipped header": _flipped_header, "header length": _length, "header entry": _entry, "header text": _header_text, "length of data": _more_or_less_data,
    "pickled module": _module, "flipped checkpoint": _flipped_checkpoint, "flipped pickle": _flipped_pickle, "archive": _archive, "pickle": _pickle, "something else": _something_else,
    "swapped ending": _swapped_endings, "unknown ending": _unknown_ending, "weights": bad_weights, "checkpoint": bad_checkpoint,
    "other network": other_network,
}  # fmt: skip
SOUND_ALONE = frozenset({"other network"})
"""Kinds that are bad only beside the sound network."""
MAY_BE_SOUND = frozenset({"flipped checkpoint", "flipped pickle"})
"""Formats without a check of the values: a change there may leave a sound file with other numbers in it."""
KINDS = (*CONTENTS, "code", "index", "no file")


def bad_file(seed: int, folder: Path) -> tuple[str, Path]:
    """Writes a bad file, and what belongs to it, into an empty folder.

    Returns:
        Its kind, and the path to pass.
    """
    from .shards import bad_index, no_file

    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    if kind == "index":
        return kind, bad_index(rng, folder)
    if kind == "no file":
        return kind, no_file(rng, folder)
    ending, content = _code(rng, folder) if kind == "code" else CONTENTS[kind](rng)
    path = folder / f"bad{ending}"
    path.write_bytes(content)
    return kind, path
