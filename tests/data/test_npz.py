"""The .npz layout: arrays and concatenated JPEG files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from graphalign.data import IMAGES, images
from graphalign.errors import CorruptFile
from tests.data.written import content, normalised, write_npz

ARRAYS = [name for name, entry in IMAGES.items() if entry.shape[0] == 1 and name != "digits"]
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_and_normalised(tmp_path, name):
    data = content(name)
    write_npz(tmp_path, name, data)
    for split, (pixels, classes) in data.items():
        x, y = images(name, split, tmp_path).tensors
        np.testing.assert_allclose(x.numpy(), normalised(name, pixels), rtol=1e-5, atol=1e-6)
        assert x.dtype == torch.float32
        assert y.dtype == torch.long
        assert y.tolist() == classes.tolist()


def jpeg_tables():
    encoded = []
    for colour in COLOURS:
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(stream, "JPEG")
        encoded.append(stream.getvalue())
    tables = {}
    for split in ("train", "test"):
        tables[f"jpeg_{split}"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        tables[f"len_{split}"] = np.array([len(e) for e in encoded], dtype=np.uint16)
        tables[f"y_{split}"] = np.array([0, 1, 2])
    return tables


def test_jpeg_images_are_cut_and_decoded(tmp_path):
    np.savez(tmp_path / "cifar10_jpeg.npz", **jpeg_tables())
    x, y = images("cifar10", root=tmp_path).tensors
    assert x.shape == (3, 3, 32, 32)
    assert y.tolist() == [0, 1, 2]
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGES["cifar10"].mean, IMAGES["cifar10"].std))
    for image, colour in zip(x, COLOURS, strict=True):
        found = ((image * std + mean) * 255).mean((1, 2))
        torch.testing.assert_close(found, torch.tensor(colour).float(), atol=3.0, rtol=0.0)


class TestErrors:
    @pytest.mark.parametrize("damaged", [b"", b"PK\x03\x04 cut short", b"not a zip"])
    def test_damaged_file(self, tmp_path, damaged):
        (tmp_path / "mnist.npz").write_bytes(damaged)
        with pytest.raises(CorruptFile, match=r"mnist.npz cannot be read .*copy it again"):
            images("mnist", root=tmp_path)

    def test_one_flipped_byte(self, tmp_path):
        write_npz(tmp_path, "mnist", content("mnist"))
        raw = bytearray((tmp_path / "mnist.npz").read_bytes())
        raw[2000] ^= 0xFF
        (tmp_path / "mnist.npz").write_bytes(raw)
        with pytest.raises(CorruptFile, match=r"mnist.npz cannot be read \(Bad CRC-32.*copy it again"):
            images("mnist", root=tmp_path)

    def test_one_array(self, tmp_path):
        with (tmp_path / "mnist.npz").open("wb") as stream:
            np.save(stream, np.zeros(3))
        with pytest.raises(CorruptFile, match=r"mnist.npz: found one array, expected an .npz file with \['x_train', 'y_train'\]"):
            images("mnist", root=tmp_path)

    def test_missing_table(self, tmp_path):
        tables = dict(zip(("x_train", "y_train"), content("mnist")["train"], strict=True))
        np.savez(tmp_path / "mnist.npz", **tables)
        with pytest.raises(CorruptFile, match=r"expected \['x_test', 'y_test'\] too"):
            images("mnist", "test", root=tmp_path)

    def test_wrong_shape(self, tmp_path):
        data = {split: (pixels[:, :16, :16], y) for split, (pixels, y) in content("mnist").items()}
        write_npz(tmp_path, "mnist", data)
        with pytest.raises(CorruptFile, match=r"images of shape \(6, 1, 16, 16\), expected as many of shape \(1, 28, 28\)"):
            images("mnist", root=tmp_path)

    def test_wrong_type(self, tmp_path):
        data = {split: (pixels / 255, y) for split, (pixels, y) in content("mnist").items()}
        write_npz(tmp_path, "mnist", data)
        with pytest.raises(
            CorruptFile, match=r"mnist.npz: found images float64 of shape \(6, 28, 28\), expected uint8 N x H x W"
        ):
            images("mnist", root=tmp_path)

    def test_fewer_labels_than_images(self, tmp_path):
        data = {split: (pixels, y[:-1]) for split, (pixels, y) in content("usps").items()}
        write_npz(tmp_path, "usps", data)
        with pytest.raises(CorruptFile, match=r"usps.npz: found labels of shape \(5,\) and images of shape \(6, 1, 16, 16\)"):
            images("usps", root=tmp_path)

    @pytest.mark.parametrize(
        ("wrong", "found"), [(np.int64(10), "int64 from 0 to 10"), (np.int64(-1), "int64 from -1"), (0.5, "float64")]
    )
    def test_wrong_labels(self, tmp_path, wrong, found):
        data = {split: (pixels, np.where(y == 1, wrong, y)) for split, (pixels, y) in content("usps").items()}
        write_npz(tmp_path, "usps", data)
        with pytest.raises(CorruptFile, match=rf"usps.npz: found classes {found}.*, expected whole numbers from 0 to 9"):
            images("usps", root=tmp_path)

    def test_jpeg_lengths_that_do_not_fit(self, tmp_path):
        tables = jpeg_tables()
        tables["jpeg_train"] = tables["jpeg_train"][:-5]
        total = int(tables["len_train"].sum())
        np.savez(tmp_path / "cifar10_jpeg.npz", **tables)
        with pytest.raises(CorruptFile, match=rf"cifar10_jpeg.npz: found {total - 5} bytes of JPEG files, expected {total}"):
            images("cifar10", root=tmp_path)

    def test_no_jpeg_file(self, tmp_path):
        tables = jpeg_tables()
        tables["jpeg_train"] = np.zeros_like(tables["jpeg_train"])
        np.savez(tmp_path / "cifar10_jpeg.npz", **tables)
        with pytest.raises(CorruptFile, match=r"cifar10_jpeg.npz cannot be read \(cannot identify image file"):
            images("cifar10", root=tmp_path)
