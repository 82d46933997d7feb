"""CIFAR-10 as published: binary batches, and pickled ones that must not run code."""

import pickle
from functools import partial

import numpy as np
import pytest

from graphalign.data import available, images
from graphalign.errors import CorruptFile
from tests.data.written import content, normalised, python2_pickle, write_cifar_binary, write_cifar_pickled

DATA = content("cifar10", n_train=7)
NEWER = [partial(pickle.dumps, protocol=protocol) for protocol in (2, 3, 4)]


def check(root):
    for split, (pixels, classes) in DATA.items():
        x, y = images("cifar10", split, root).tensors
        np.testing.assert_allclose(x.numpy(), normalised("cifar10", pixels), rtol=1e-5, atol=1e-6)
        assert y.tolist() == classes.tolist()
    assert available(root) == ["digits", "cifar10"]


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", ""])
def test_binary_batches(tmp_path, folder):
    write_cifar_binary(tmp_path / folder, DATA)
    check(tmp_path)


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", ""])
def test_pickles_of_python_2(tmp_path, folder):
    write_cifar_pickled(tmp_path / folder, DATA)
    raw = (tmp_path / folder / "test_batch").read_bytes()
    assert pickle.loads(raw, encoding="latin1")["data"].shape == (4, 3072)  # the writer of the tests writes what Python reads
    check(tmp_path)


@pytest.mark.parametrize("dumps", NEWER)
def test_pickles_of_python_3(tmp_path, dumps):
    write_cifar_pickled(tmp_path, DATA, dumps)
    check(tmp_path)


def test_columns_first(tmp_path):
    write_cifar_pickled(tmp_path, DATA, lambda batch: python2_pickle({**batch, "data": np.asfortranarray(batch["data"])}))
    check(tmp_path)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


class TestErrors:
    @pytest.mark.parametrize(("raw", "found"), [(b"", 0), (bytes(3072), 3072), (bytes(3073 * 2 + 1), 6147)])
    def test_damaged_binary_batch(self, tmp_path, raw, found):
        write_cifar_binary(tmp_path, DATA)
        (tmp_path / "data_batch_3.bin").write_bytes(raw)
        with pytest.raises(
            CorruptFile, match=rf"data_batch_3.bin: found {found} bytes, expected a multiple of 3073; copy it again"
        ):
            images("cifar10", root=tmp_path)

    def test_shifted_records(self, tmp_path):
        write_cifar_binary(tmp_path, DATA)
        file = tmp_path / "test_batch.bin"
        file.write_bytes(b"\xff" + file.read_bytes()[:-1])
        with pytest.raises(
            CorruptFile, match=r"test_batch.bin: found classes uint8 from \d+ to 255, expected whole numbers from 0 to 9"
        ):
            images("cifar10", "test", tmp_path)

    @pytest.mark.parametrize("dumps", [python2_pickle, *NEWER])
    def test_a_pickle_that_would_run_code_does_not(self, tmp_path, dumps):
        write_cifar_pickled(tmp_path, DATA)
        marker = tmp_path / "ran"
        (tmp_path / "data_batch_2").write_bytes(dumps({"data": Attack(marker), "labels": [1]}))
        message = r"data_batch_2: found the name \w+.open, which could run code, .*use the binary version, cifar-10-batches-bin"
        with pytest.raises(CorruptFile, match=message):
            images("cifar10", root=tmp_path)
        assert not marker.exists()

    @pytest.mark.parametrize(
        "raw", [b"", b"no pickle", python2_pickle({"data": 1})[:-3], b"cnumpy\nndarray\n(I1000000000000\ntR."]
    )
    def test_damaged_pickle(self, tmp_path, raw):
        write_cifar_pickled(tmp_path, DATA)
        (tmp_path / "data_batch_5").write_bytes(raw)
        with pytest.raises(CorruptFile, match=r"data_batch_5 cannot be read .*copy it again"):
            images("cifar10", root=tmp_path)

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ([1, 2], r"found list, expected an array 'data' and a list of numbers 'labels'"),
            ({}, r"found dict, expected an array"),
            ({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [1]}, r"found \['data', 'fine_labels'\], expected"),
            ({"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]}, r"found \['data', 'labels'\], expected"),
            (
                {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
                r"found u1 of shape \(2, 3072\) in 6144 bytes, expected uint8 of shape \(1,",
            ),
            ({"data": np.zeros((1, 3072), np.float32), "labels": [1]}, r"found f4 of shape \(1, 3072\) in 12288 bytes"),
            ({"data": np.zeros((1, 1024), np.uint8), "labels": [1]}, r"found u1 of shape \(1, 1024\) in 1024 bytes"),
            ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"found u1 of shape \(0, 3072\) in 0 bytes"),
        ],
    )
    def test_other_content(self, tmp_path, batch, message):
        write_cifar_pickled(tmp_path, DATA)
        (tmp_path / "data_batch_1").write_bytes(python2_pickle(batch))
        with pytest.raises(CorruptFile, match=rf"data_batch_1: {message}"):
            images("cifar10", root=tmp_path)
