import pytest
import torch
from torch import Generator

from graphalign.zoo.augmentation import AUGMENTATIONS, SHIFT, flip, shift


def batch():
    return torch.randn(2, 40, 3, 6, 7, generator=Generator().manual_seed(0))


def test_flips_mirror_about_half_of_the_images():
    x = batch()
    y = flip(x, [Generator().manual_seed(i) for i in range(2)])
    kept, mirrored = (y == x).flatten(2).all(2), (y == x.flip(-1)).flatten(2).all(2)
    assert (kept ^ mirrored).all()
    assert 20 < int(mirrored.sum()) < 60


def test_shifts_move_the_whole_image():
    x = batch()
    y = shift(x, [Generator().manual_seed(i) for i in range(2)])
    padded = torch.nn.functional.pad(x.flatten(0, 1), (SHIFT,) * 4, mode="replicate").view(2, 40, 3, 6 + 2 * SHIFT, 7 + 2 * SHIFT)
    seen = set()
    for k in range(2):
        for i in range(40):
            places = [
                (a, b) for a in range(2 * SHIFT + 1) for b in range(2 * SHIFT + 1)
                if torch.equal(padded[k, i, :, a : a + 6, b : b + 7], y[k, i])
            ]  # fmt: skip
            assert len(places) == 1
            seen.update(places)
    assert len(seen) > 15


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_a_network_sees_what_it_would_see_alone(name):
    x = batch()
    before = x.clone()
    both = AUGMENTATIONS[name](x, [Generator().manual_seed(i) for i in range(2)])
    alone = AUGMENTATIONS[name](x[1:], [Generator().manual_seed(1)])
    assert torch.equal(both[1:], alone)
    assert torch.equal(x, before)
    assert not torch.equal(both, x)
