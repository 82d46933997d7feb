"""Which of several layouts is read, what a root holds, and what is said when nothing is found."""

import os
import shutil

import numpy as np
import pytest
import torch

from graphalign import data
from graphalign.data import IMAGES, available, images, layouts
from graphalign.errors import InvalidInput
from tests.data.written import content, write_cifar_binary, write_cifar_pickled, write_idx, write_npz, write_usps

ROOT = os.environ.get(data.ROOT)
COUNTS = {
    "mnist": (60000, 10000), "fashion_mnist": (60000, 10000), "emnist_letters": (124800, 20800), "kmnist": (8000, 2000),
    "usps": (7291, 2007), "cifar10": (50000, 10000),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_package(tmp_path, monkeypatch):
    """Debian's package may be installed where the tests run."""
    monkeypatch.setattr(layouts, "DEBIAN", tmp_path / "absent")


def first_label(name, root):
    return int(images(name, "train", root).tensors[1][0])


def labelled(name, label):
    return {split: (pixels, np.full_like(y, label)) for split, (pixels, y) in content(name).items()}


def test_npz_then_the_folders_of_torchvision_then_the_root_itself(tmp_path):
    write_idx(tmp_path, labelled("mnist", 4), ending=".gz")
    assert first_label("mnist", tmp_path) == 4
    write_idx(tmp_path, labelled("mnist", 3))
    assert first_label("mnist", tmp_path) == 3
    write_idx(tmp_path / "MNIST/raw", labelled("mnist", 2), ending=".gz")
    assert first_label("mnist", tmp_path) == 2
    write_idx(tmp_path / "MNIST/raw", labelled("mnist", 1))
    assert first_label("mnist", tmp_path) == 1
    write_npz(tmp_path, "mnist", labelled("mnist", 0))
    assert first_label("mnist", tmp_path) == 0


def test_binary_batches_come_before_pickled_ones(tmp_path):
    write_cifar_pickled(tmp_path, labelled("cifar10", 4))
    write_cifar_pickled(tmp_path / "cifar-10-batches-py", labelled("cifar10", 3))
    assert first_label("cifar10", tmp_path) == 3
    write_cifar_binary(tmp_path, labelled("cifar10", 2))
    assert first_label("cifar10", tmp_path) == 2
    write_cifar_binary(tmp_path / "cifar-10-batches-bin", labelled("cifar10", 1))
    assert first_label("cifar10", tmp_path) == 1


def test_the_layout_leaves_no_trace_in_the_tensors(tmp_path):
    one, other = content("usps"), tmp_path / "other"
    write_npz(tmp_path, "usps", one)
    write_usps(other, one)
    for a, b in zip(images("usps", "train", tmp_path).tensors, images("usps", "train", other).tensors, strict=True):
        assert torch.equal(a, b)
        assert a.is_contiguous()
        assert b.is_contiguous()


def test_an_argument_beats_the_environment(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("GRAPHALIGN_DATA", str(tmp_path / "other"))
    write_npz(tmp_path, "usps", content("usps"))
    assert len(images("usps", "test", root=tmp_path)) == 4
    assert available(tmp_path) == ["digits", "usps"]
    assert available() == ["digits"]
    monkeypatch.setenv("GRAPHALIGN_DATA", str(tmp_path))
    assert len(images("usps", "test")) == 4
    assert available() == ["digits", "usps"]


def test_available_names_keep_their_order(tmp_path):
    for name in ("usps", "kmnist", "mnist"):
        write_npz(tmp_path, name, content(name))
    write_cifar_binary(tmp_path, content("cifar10"))
    assert available(str(tmp_path)) == ["digits", "mnist", "kmnist", "usps", "cifar10"]


def test_classes_are_recorded():
    assert {name: entry.classes for name, entry in IMAGES.items() if entry.classes != 10} == {"emnist_letters": 26}


class TestErrors:
    def test_unknown_name_and_split(self, tmp_path):
        with pytest.raises(InvalidInput, match=r"images: found 'imagenet', expected one of digits, mnist, .*cifar10"):
            images("imagenet")
        with pytest.raises(InvalidInput, match=r"split: found 'valid', expected 'train' or 'test'"):
            images("mnist", "valid", tmp_path)

    @pytest.mark.parametrize("empty", [None, ""])
    def test_no_root(self, monkeypatch, empty):
        monkeypatch.delenv("GRAPHALIGN_DATA", raising=False)
        with pytest.raises(InvalidInput, match=r"no data root: none was given, and GRAPHALIGN_DATA is not set\nPass as root="):
            images("mnist", root=empty)
        with pytest.raises(InvalidInput, match=r"GRAPHALIGN_DATA is not set\n  - .*absent: missing train-images-idx3-ubyte"):
            images("fashion_mnist", root=empty)
        assert available(empty) == ["digits"]

    def test_every_place_is_listed(self, tmp_path):
        with pytest.raises(InvalidInput) as caught:
            images("cifar10", root=tmp_path)
        first, *lines, last = str(caught.value).splitlines()
        assert first == "images: found no cifar10, having looked for it in"
        assert [line.partition(": missing ")[0] for line in lines] == [
            f"  - {tmp_path / folder}" for folder in ("", "cifar-10-batches-bin", "", "cifar-10-batches-py", "")
        ]
        assert lines[0].endswith("missing cifar10_jpeg.npz")
        assert lines[3].endswith("missing data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch")
        assert last == "Pass as root= (or in GRAPHALIGN_DATA) the folder that holds these files in one of these ways."

    def test_a_root_that_is_no_folder(self, tmp_path, monkeypatch):
        file = tmp_path / "mnist.npz"
        file.touch()
        for use in (images, lambda name, root: available(root)):
            with pytest.raises(InvalidInput, match=r"root: found .*mnist.npz, which is no folder, expected .*correct the path"):
                use("mnist", root=file)
        monkeypatch.setenv("GRAPHALIGN_DATA", str(tmp_path / "elsewhere"))
        with pytest.raises(InvalidInput, match=r"GRAPHALIGN_DATA: found .*elsewhere, which is no folder"):
            images("mnist")

    def test_a_folder_in_place_of_a_file(self, tmp_path):
        write_usps(tmp_path, content("usps"))
        (tmp_path / "usps.bz2").unlink()
        (tmp_path / "usps").mkdir()
        with pytest.raises(InvalidInput, match=r"missing usps.bz2\|usps\n"):
            images("usps", "test", tmp_path)
        shutil.rmtree(tmp_path / "usps")


@pytest.mark.skipif(not ROOT, reason=f"{data.ROOT} is not set: no data sets to read")
@pytest.mark.parametrize("name", COUNTS)
def test_the_sets_of_a_data_root(name):
    if name not in available():
        pytest.skip(f"{data.ROOT} holds no {name}")
    x, y = images(name, "test").tensors
    entry = IMAGES[name]
    if (layouts.Path(ROOT) / entry.file).is_file():
        assert len(x) == COUNTS[name][1]
    assert x.shape[1:] == entry.shape
    assert set(y.tolist()) == set(range(entry.classes))
    assert x.mean((0, 2, 3)).abs().max() < 0.05
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.05
