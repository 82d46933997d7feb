"""USPS in the text format of LIBSVM, plain or compressed by bzip2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphalign.data.sets import ImageSet, Split
from graphalign.errors import CorruptFile, InvalidInput

PIXELS = 16 * 16


def read_libsvm(files: Sequence[Path], entry: ImageSet, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Pixels (N, 1, 16, 16) and classes (N,) of a file of lines `class 1:value ... 256:value`.

    Classes are written as 1 to 10 and values as -1 to 1 (https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/); a value v
    becomes the nearest pixel to 255 (v + 1) / 2.

    Raises:
        CorruptFile: damaged compression, lines of another form, not 256 values in a line, or values beyond -1 to 1.
        InvalidInput: scikit-learn, which parses the format, is missing.
    """
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError:
        raise InvalidInput(
            "the text files of USPS need scikit-learn, which is not installed; run: pip install 'graphalign[demo]'"
        ) from None
    (file,) = files
    try:
        values, classes = load_svmlight_file(str(file), n_features=PIXELS, zero_based=False)
    except (OSError, EOFError, ValueError) as error:
        raise CorruptFile(f"{file} cannot be read ({error}); copy it again") from None
    per_line = np.diff(values.indptr)
    if (per_line != PIXELS).any():
        line = int(np.argmax(per_line != PIXELS))
        raise CorruptFile(f"{file}, image {line + 1}: found {per_line[line]} values, expected {PIXELS}; copy it again")
    dense = values.toarray()
    if not (np.abs(dense) <= 1).all():
        raise CorruptFile(f"{file}: found values from {dense.min():g} to {dense.max():g}, expected -1 to 1; copy it again")
    return np.rint((dense + 1) * 127.5).astype(np.uint8).reshape(-1, *entry.shape), classes.astype(np.int64) - 1
