"""The embedded digits, by their own name and through `images`."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from graphalign.data import IMAGES, digits, images, loader
from graphalign.errors import InvalidInput


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


def test_the_recorded_mean_and_std_are_those_of_the_training_images():
    pixels = load_digits().data.reshape(-1, 8, 8)
    by_image = {image.tobytes() for image in pixels}
    entry = IMAGES["digits"]
    back = digits("train").tensors[0].double().numpy()[:, 0] * (16 * entry.std[0]) + 16 * entry.mean[0]
    np.testing.assert_allclose(back, np.rint(back), atol=2e-3)
    assert {image.tobytes() for image in np.rint(back) + 0.0} <= by_image


def test_images_gives_the_digits_without_a_root(monkeypatch):
    monkeypatch.delenv("GRAPHALIGN_DATA", raising=False)
    for split in ("train", "test"):
        for found, expected in zip(images("digits", split).tensors, digits(split).tensors, strict=True):
            assert torch.equal(found, expected)
    assert images("digits").tensors[0].shape[1:] == IMAGES["digits"].shape
    assert IMAGES["digits"].classes == 10


def test_loader_keeps_the_order_and_the_rest():
    data = digits("test")
    batches = list(loader(data, 100))
    assert [len(y) for _, y in batches] == [100, 100, 100, 100, 49]
    assert torch.equal(torch.cat([y for _, y in batches]), data.tensors[1])


def test_unknown_split():
    with pytest.raises(InvalidInput, match=r"split: found 'valid', expected 'train' or 'test'"):
        digits("valid")
