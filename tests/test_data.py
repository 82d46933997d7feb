"""The embedded digits, and the reader of a data root made here."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from graphalign.data import IMAGES, digits, images, loader
from graphalign.errors import CorruptFile, InvalidInput


def tables(shape, n_train=6, n_test=4):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n_train, *shape), dtype=np.uint8),
        "y_train": np.arange(n_train, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (n_test, *shape), dtype=np.uint8),
        "y_test": np.arange(n_test, dtype=np.uint8),
    }


def test_digits_are_normalised_and_split_once():
    train, test = digits("train"), digits("test")
    x, y = train.tensors
    assert x.shape == (1348, 1, 8, 8)
    assert len(test) == 449
    assert x.dtype == torch.float32
    assert y.dtype == torch.long
    assert float(x.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(x.std()) == pytest.approx(1.0, abs=1e-5)
    assert set(test.tensors[1].tolist()) == set(range(10))
    seen = {tuple(row.tolist()) for row in x.flatten(1)}
    assert not any(tuple(row.tolist()) in seen for row in test.tensors[0].flatten(1))


def test_the_seed_decides_the_split():
    first, again, other = digits("test"), digits("test"), digits("test", seed=1)
    assert torch.equal(first.tensors[0], again.tensors[0])
    assert not torch.equal(first.tensors[1], other.tensors[1])


def test_loader_keeps_the_order_and_the_rest():
    data = digits("test")
    batches = list(loader(data, 100))
    assert [len(y) for _, y in batches] == [100, 100, 100, 100, 49]
    assert torch.equal(torch.cat([y for _, y in batches]), data.tensors[1])


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28)), ("usps", (16, 16)), ("kmnist", (28, 28))])
def test_images_are_read_and_normalised(tmp_path, monkeypatch, name, shape):
    content = tables(shape)
    np.savez(tmp_path / IMAGES[name].file, **content)
    monkeypatch.setenv("GRAPHALIGN_DATA", str(tmp_path))
    for split in ("train", "test"):
        x, y = images(name, split).tensors
        expected = (content[f"x_{split}"][:, None].astype(np.float64) / 255 - IMAGES[name].mean[0]) / IMAGES[name].std[0]
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-6)
        assert x.dtype == torch.float32
        assert y.tolist() == content[f"y_{split}"].tolist()


def test_an_argument_beats_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHALIGN_DATA", str(tmp_path / "elsewhere"))
    np.savez(tmp_path / "usps.npz", **tables((16, 16)))
    assert len(images("usps", "test", root=tmp_path)) == 4


def test_jpeg_images_are_cut_and_decoded(tmp_path):
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    encoded = []
    for colour in colours:
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(stream, "JPEG")
        encoded.append(stream.getvalue())
    content = {}
    for split in ("train", "test"):
        content[f"jpeg_{split}"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        content[f"len_{split}"] = np.array([len(e) for e in encoded], dtype=np.uint16)
        content[f"y_{split}"] = np.array([0, 1, 2])
    np.savez(tmp_path / "cifar10_jpeg.npz", **content)
    x, y = images("cifar10", root=tmp_path).tensors
    assert x.shape == (3, 3, 32, 32)
    assert y.tolist() == [0, 1, 2]
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGES["cifar10"].mean, IMAGES["cifar10"].std))
    for image, colour in zip(x, colours, strict=True):
        found = ((image * std + mean) * 255).mean((1, 2))
        torch.testing.assert_close(found, torch.tensor(colour).float(), atol=3.0, rtol=0.0)


class TestErrors:
    def test_unknown_split_and_name(self):
        with pytest.raises(InvalidInput, match=r"split: found 'valid', expected 'train' or 'test'"):
            digits("valid")
        with pytest.raises(InvalidInput, match=r"found 'imagenet', expected one of mnist, .*digits\(\) needs no file"):
            images("imagenet")

    def test_no_root(self, monkeypatch):
        monkeypatch.delenv("GRAPHALIGN_DATA", raising=False)
        with pytest.raises(InvalidInput, match=r"no folder given for mnist.npz; pass root=, or set GRAPHALIGN_DATA"):
            images("mnist")

    def test_missing_file(self, tmp_path):
        with pytest.raises(InvalidInput, match=r"mnist.npz does not exist; pass as root="):
            images("mnist", root=tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not a zip"])
    def test_damaged_file(self, tmp_path, content):
        (tmp_path / "mnist.npz").write_bytes(content)
        with pytest.raises(CorruptFile, match=r"mnist.npz cannot be read .*copy it again"):
            images("mnist", root=tmp_path)

    def test_missing_table(self, tmp_path):
        content = tables((28, 28))
        del content["y_test"]
        np.savez(tmp_path / "mnist.npz", **content)
        with pytest.raises(CorruptFile, match=r"expected \['y_test'\] too"):
            images("mnist", "test", root=tmp_path)

    def test_wrong_shape(self, tmp_path):
        np.savez(tmp_path / "mnist.npz", **tables((16, 16)))
        with pytest.raises(CorruptFile, match=r"images of shape \(6, 1, 16, 16\), expected as many of shape \(1, 28, 28\)"):
            images("mnist", root=tmp_path)
