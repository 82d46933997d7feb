import pytest
import torch

from graphalign.errors import InvalidInput
from graphalign.zoo.images import read_images, signal, subset


@pytest.fixture(scope="module")
def digits():
    return read_images("digits")


def test_a_data_set_says_what_it_holds(digits):
    assert digits.shape == (1, 8, 8)
    assert digits.classes == 10
    assert len(digits.x) == len(digits.y) == 1348
    assert len(digits.test_x) == len(digits.test_y) == 449


def test_a_subset_keeps_the_test_images(digits):
    few = subset(digits, 7)
    assert torch.equal(few.x, digits.x[:7])
    assert torch.equal(few.test_x, digits.test_x)
    assert subset(digits, None) is digits
    with pytest.raises(InvalidInput, match="images: found 2000, expected at most the 1348 training images"):
        subset(digits, 2000)


def test_a_signal_is_the_image_at_its_coordinates(digits):
    one = signal(digits, 5)
    image = digits.x[5, 0]
    scaled = (image - image.min()) / (image.max() - image.min()) * 2 - 1
    for (x, y), value in zip(one.x, one.y, strict=True):
        row, column = round((float(y) + 1) * 3.5), round((float(x) + 1) * 3.5)
        assert float(value) == pytest.approx(float(scaled[row, column]), abs=1e-6)
    assert len({tuple(point) for point in one.x.tolist()}) == 64
    with pytest.raises(InvalidInput, match="signal: found 1348, expected less than the 1348"):
        signal(digits, 1348)
