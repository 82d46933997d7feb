"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

from graphalign.data.sets import Split, check_split
from graphalign.errors import InvalidInput


def digits(split: Split = "train", seed: int = 0) -> TensorDataset:
    """Handwritten digits, 8x8 pixels, 1,797 images by 43 writers (Alpaydin and Kaynak 1998), from scikit-learn; no download.

    Every fourth image of a seeded shuffle is a test image: 1,348 to train on, 449 to test with.

    Args:
        split: "train" or "test".
        seed: of the shuffle that splits.

    Returns:
        Images (N, 1, 8, 8) float32, of mean 0 and standard deviation 1 over the training images, and classes (N,) int64.

    Raises:
        InvalidInput: an unknown split, or scikit-learn is missing.
    """
    check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InvalidInput("the digits need scikit-learn, which is not installed; run: pip install 'graphalign[demo]'") from None
    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)[order]
    y = torch.from_numpy(classes).long()[order]
    test = torch.arange(len(x)) % 4 == 3
    mean, std = x[~test].mean(), x[~test].std()
    chosen = test if split == "test" else ~test
    return TensorDataset((x[chosen] - mean) / std, y[chosen])
