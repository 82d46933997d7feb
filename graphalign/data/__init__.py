"""Image data: the digits that come with scikit-learn, and data sets found in a data root."""

from graphalign.data.embedded import digits
from graphalign.data.lookup import ROOT, available, images
from graphalign.data.sets import IMAGES, SPLITS, ImageSet, Split, loader
from graphalign.errors import GraphAlignError

__all__ = ["IMAGES", "ROOT", "SPLITS", "GraphAlignError", "ImageSet", "Split", "available", "digits", "images", "loader"]
