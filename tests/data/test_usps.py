"""USPS in LIBSVM text, as torchvision leaves it."""

import bz2
import re

import numpy as np
import pytest

from graphalign.data import available, images
from graphalign.errors import CorruptFile
from tests.data.written import content, libsvm, normalised, write_usps

DATA = content("usps", n_train=10)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("folder", ["USPS", ""])
def test_every_pixel_and_class_comes_back(tmp_path, folder, compressed):
    write_usps(tmp_path / folder, DATA, compressed)
    for split, (pixels, classes) in DATA.items():
        x, y = images("usps", split, tmp_path).tensors
        np.testing.assert_allclose(x.numpy(), normalised("usps", pixels), rtol=1e-5, atol=1e-6)
        assert y.tolist() == classes.tolist()
    assert available(tmp_path) == ["digits", "usps"]


def test_values_in_between_become_the_nearest_pixel(tmp_path):
    text = re.sub(rb" 1:\S+", b" 1:0.003", libsvm(*DATA["train"]), count=1)
    write_usps(tmp_path, DATA)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(text))
    pixel = images("usps", "train", tmp_path).tensors[0][0, 0, 0, 0]
    assert float(pixel) == pytest.approx((128 / 255 - 0.2545) / 0.3846, abs=1e-5)  # 0.003 is 127.88


def pixel_7(value):
    return re.sub(rb" 7:\S+", b" 7:" + value, libsvm(*DATA["train"]), count=1)


class TestErrors:
    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (b"", r"cannot be read .*copy it again"),
            (b"not bzip2", r"cannot be read \(Invalid data stream\); copy it again"),
            (bz2.compress(libsvm(*DATA["train"]))[:-20], r"cannot be read .*copy it again"),
            (bz2.compress(b"no numbers here\n"), r"cannot be read .*copy it again"),
            (bz2.compress(libsvm(*DATA["train"])[:-500]), r", image 10: found \d+ values, expected 256; copy it again"),
            (bz2.compress(libsvm(*DATA["train"]).replace(b" 256:", b" 257:", 1)), r"cannot be read .*copy it again"),
            (bz2.compress(pixel_7(b"9.5")), r": found values from -1 to 9.5, expected -1 to 1; copy it again"),
            (bz2.compress(pixel_7(b"nan")), r": found values from nan to nan, expected -1 to 1"),
            (
                bz2.compress(b"11" + libsvm(*DATA["train"])[1:]),
                r": found classes int64 from 0 to 10, expected whole numbers from 0 to 9",
            ),
        ],
    )
    def test_damaged_files(self, tmp_path, raw, message):
        write_usps(tmp_path, DATA)
        (tmp_path / "usps.bz2").write_bytes(raw)
        with pytest.raises(CorruptFile, match=rf"usps.bz2({message})|usps.bz2 ({message})"):
            images("usps", root=tmp_path)
