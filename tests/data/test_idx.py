"""IDX files where torchvision leaves them, in the root itself, and where Debian's package puts them."""

import gzip

import numpy as np
import pytest

from graphalign.data import IMAGES, available, images, layouts
from graphalign.errors import CorruptFile, InvalidInput
from tests.data.written import content, idx, normalised, write_emnist, write_idx, write_npz

FOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "kmnist": "KMNIST/raw"}
FIRST = "train-images-idx3-ubyte"


def check(name, root, data):
    for split, (pixels, classes) in data.items():
        x, y = images(name, split, root).tensors
        np.testing.assert_allclose(x.numpy(), normalised(name, pixels), rtol=1e-5, atol=1e-6)
        assert y.tolist() == classes.tolist()


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_of_torchvision(tmp_path, name, ending):
    data = content(name)
    write_idx(tmp_path / FOLDERS[name], data, ending=ending)
    check(name, tmp_path, data)
    assert available(tmp_path) == ["digits", name]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("folder", ["EMNIST/raw", ""])
def test_letters_are_made_upright_and_numbered_from_zero(tmp_path, folder, ending):
    data = content("emnist_letters", n_train=26)
    write_emnist(tmp_path / folder, data, ending)
    check("emnist_letters", tmp_path, data)
    assert images("emnist_letters", "train", tmp_path).tensors[1].max() == 25
    assert available(tmp_path) == ["digits", "emnist_letters"]


@pytest.mark.parametrize("name", FOLDERS)
def test_files_in_the_root_itself(tmp_path, name):
    data = content(name)
    write_idx(tmp_path, data)
    check(name, tmp_path, data)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_files_in_the_root_are_told_apart_by_their_mean_pixel(tmp_path, ending):
    mean = IMAGES["fashion_mnist"].mean[0]
    data = {split: (np.full_like(pixels, round(255 * mean)), y) for split, (pixels, y) in content("mnist").items()}
    write_idx(tmp_path, data, ending=ending)
    check("fashion_mnist", tmp_path, data)
    assert available(tmp_path) == ["digits", "fashion_mnist"]
    for other in ("mnist", "kmnist"):
        with pytest.raises(InvalidInput, match=rf"{FIRST}{ending} is fashion_mnist by its mean pixel, 0.286"):
            images(other, root=tmp_path)


def test_named_folders_need_no_telling(tmp_path):
    data = {split: (np.full_like(pixels, 73), y) for split, (pixels, y) in content("mnist").items()}
    write_idx(tmp_path / "MNIST/raw", data)
    check("mnist", tmp_path, data)


class TestDebian:
    @pytest.fixture
    def debian(self, tmp_path, monkeypatch):
        folder = tmp_path / "usr"
        data = content("fashion_mnist", seed=1)
        write_idx(folder, data, ending=".gz")
        monkeypatch.setattr(layouts, "DEBIAN", folder)
        monkeypatch.delenv("GRAPHALIGN_DATA", raising=False)
        return data

    def test_without_a_root(self, debian):
        check("fashion_mnist", None, debian)
        assert available() == ["digits", "fashion_mnist"]

    def test_with_a_root_that_has_none(self, debian, tmp_path):
        (tmp_path / "root").mkdir()
        check("fashion_mnist", tmp_path / "root", debian)

    def test_a_root_that_has_it_comes_first(self, debian, tmp_path):
        data = content("fashion_mnist", seed=2)
        write_idx(tmp_path / "root", data)
        check("fashion_mnist", tmp_path / "root", data)

    def test_for_no_other_name(self, debian):
        with pytest.raises(InvalidInput, match="found no mnist"):
            images("mnist")


def damage(raw, kind):
    return {
        "cut": raw[:-1],
        "longer": raw + b"\0",
        "empty": b"",
        "header": raw[:10],
        "magic": b"\0\0\x0d" + raw[3:],
        "size": raw[:11] + b"\x1b" + raw[12:],
        "gzipped": gzip.compress(raw, mtime=0),
    }[kind]


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("cut", r"found 4703 bytes after the header, expected 4704 of tables \[6, 28, 28\]; copy it again"),
            ("longer", r"found 4705 bytes after the header, expected 4704 of tables"),
            ("empty", r"found the magic number of an empty file, expected 00000803; copy it again"),
            ("header", r"found tables of size \(0, 0\) in the header, expected \(28, 28\); copy it again"),
            ("magic", r"found the magic number 00000d03, expected 00000803; copy it again"),
            ("size", r"found tables of size \(27, 28\) in the header, expected \(28, 28\); copy it again"),
            ("gzipped", r"found the magic number 1f8b0800, expected 00000803; it is gzipped, add .gz to its name"),
        ],
    )
    def test_damaged_images(self, tmp_path, kind, message):
        data = content("mnist")
        write_idx(tmp_path / "MNIST/raw", data)
        (tmp_path / "MNIST/raw" / FIRST).write_bytes(damage(idx(data["train"][0]), kind))
        with pytest.raises(CorruptFile, match=rf"MNIST/raw/{FIRST}: {message}"):
            images("mnist", root=tmp_path)

    @pytest.mark.parametrize("place", ["MNIST/raw", ""])
    @pytest.mark.parametrize("raw", [b"", b"not gzip", gzip.compress(bytes(9999), mtime=0)[:-9]])
    def test_damaged_gzip(self, tmp_path, place, raw):
        write_idx(tmp_path / place, content("mnist"), ending=".gz")
        (tmp_path / place / f"{FIRST}.gz").write_bytes(raw)
        with pytest.raises(CorruptFile, match=rf"{FIRST}.gz(: found the magic number| cannot be read).*copy it again"):
            images("mnist", root=tmp_path)
        assert "mnist" in available(tmp_path)

    def test_images_in_place_of_labels(self, tmp_path):
        data = content("mnist")
        write_idx(tmp_path, data)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(data["train"][0]))
        with pytest.raises(CorruptFile, match=r"train-labels-idx1-ubyte: found the magic number 00000803, expected 00000801"):
            images("mnist", root=tmp_path)

    def test_another_number_of_labels(self, tmp_path):
        data = content("mnist")
        write_idx(tmp_path, data)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(data["train"][1][:5]))
        message = rf"{FIRST} and .*train-labels-idx1-ubyte: found labels of shape \(5,\) and images of shape \(6, 1, 28, 28\)"
        with pytest.raises(CorruptFile, match=message):
            images("mnist", root=tmp_path)

    def test_letters_numbered_from_zero(self, tmp_path):
        data = {split: (pixels, y - 1) for split, (pixels, y) in content("emnist_letters").items()}
        write_emnist(tmp_path, {split: (p, y.astype(np.uint8)) for split, (p, y) in data.items()})
        with pytest.raises(CorruptFile, match=r"found classes int64 from -1 to \d+, expected whole numbers from 0 to 25"):
            images("emnist_letters", root=tmp_path)

    def test_a_layout_without_one_of_its_files_is_passed_over(self, tmp_path):
        write_npz(tmp_path, "kmnist", content("kmnist"))
        (tmp_path / "kmnist_10k.npz").rename(tmp_path / "kmnist.npz")
        write_idx(tmp_path / "KMNIST/raw", content("kmnist"))
        (tmp_path / "KMNIST/raw/t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(InvalidInput, match=r"KMNIST/raw: missing t10k-labels-idx1-ubyte\|t10k-labels-idx1-ubyte.gz\n"):
            images("kmnist", "train", root=tmp_path)
        write_idx(tmp_path, content("kmnist", seed=3))
        check("kmnist", tmp_path, content("kmnist", seed=3))
