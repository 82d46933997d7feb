"""Small data sets, written in every layout by code that shares nothing with the readers."""

import bz2
import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np

from graphalign.data import IMAGES


def content(name, n_train=6, n_test=4, seed=0):
    """Pixels N x H x W or N x H x W x 3, and classes from 0 on, by split."""
    rng = np.random.default_rng(seed)
    channels, *size = IMAGES[name].shape
    shape = (*size, channels) if channels > 1 else tuple(size)
    return {
        split: (rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.permutation(n).astype(np.uint8))
        for split, n in (("train", n_train), ("test", n_test))
    }


def normalised(name, pixels):
    """What `images` must return, in float64."""
    x = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    mean, std = (np.array(v).reshape(1, -1, 1, 1) for v in (IMAGES[name].mean, IMAGES[name].std))
    return (x.astype(np.float64) / 255 - mean) / std


def write_npz(root, name, data):
    tables = {f"{letter}_{split}": part for split, parts in data.items() for letter, part in zip("xy", parts, strict=True)}
    np.savez(root / IMAGES[name].file, **tables)


def idx(table):
    return struct.pack(f">BBBB{table.ndim}I", 0, 0, 8, table.ndim, *table.shape) + table.tobytes()


def write_idx(folder, data, prefixes=("train-", "t10k-"), ending=""):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, (pixels, classes) in zip(prefixes, data.values(), strict=True):
        for kind, table in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", classes)):
            raw = idx(table)
            (folder / f"{prefix}{kind}{ending}").write_bytes(gzip.compress(raw, mtime=0) if ending else raw)


def write_emnist(folder, data, ending=""):
    published = {split: (pixels.transpose(0, 2, 1), classes + 1) for split, (pixels, classes) in data.items()}
    write_idx(folder, published, ("emnist-letters-train-", "emnist-letters-test-"), ending)


def libsvm(pixels, classes):
    lines = []
    for image, label in zip(pixels, classes, strict=True):
        values = image.reshape(-1) / 127.5 - 1
        lines.append(f"{label + 1} " + " ".join(f"{i}:{v:.6f}" for i, v in enumerate(values, 1)) + " \n")
    return "".join(lines).encode()


def write_usps(folder, data, compressed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in zip(("usps", "usps.t"), data.values(), strict=True):
        text = libsvm(*parts)
        (folder / (name + ".bz2" * compressed)).write_bytes(bz2.compress(text) if compressed else text)


def cifar_batches(data):
    """Name, rows of 3,072 pixels and classes of every batch; at least five training images."""
    pixels, classes = data["train"]
    for i, part in enumerate(np.array_split(np.arange(len(pixels)), 5), 1):
        yield f"data_batch_{i}", pixels[part].transpose(0, 3, 1, 2).reshape(len(part), -1), classes[part]
    pixels, classes = data["test"]
    yield "test_batch", pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1), classes


def write_cifar_binary(folder, data):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, classes in cifar_batches(data):
        (folder / f"{name}.bin").write_bytes(np.concatenate([classes[:, None], rows], axis=1).tobytes())


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, in protocol 2: as text without an encoding."""

    def save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}


def python2_pickle(value):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar_pickled(folder, data, dumps=python2_pickle):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, classes in cifar_batches(data):
        batch = {"batch_label": name, "labels": [int(c) for c in classes], "data": rows, "filenames": ["a.png"] * len(rows)}
        Path(folder / name).write_bytes(dumps(batch))
