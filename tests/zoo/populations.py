"""Small populations that the tests share."""

from graphalign.zoo.design import CNN, MLP, SIREN, VGG, Design, ResNet

DESIGNS: tuple[Design, ...] = (
    MLP((8, 6), "gelu"),
    CNN((4, 5), 6, 5, "silu"),
    VGG(((3,), (4, 4)), (5,), 2, "none", "tanh"),
    VGG(((3,), (4, 4)), norm="batch"),
    ResNet((1, 2), 4, "plain", "leaky_relu"),
    ResNet((1, 1), 4, "imagenet"),
    SIREN((6, 5), 20.0),
)
CONTENT = {
    "train": {
        "split": "train", "designs": 3, "seeds": 3,
        "design": {"family": "mlp", "depth": [1, 2], "width": {"low": 4, "high": 12, "step": 4}},
        "recipe": {"data": "digits", "images": 200, "epochs": 2},
    },
    "signals": {
        "split": "train", "designs": 2, "seeds": 2,
        "design": {"family": "siren", "depth": 1, "width": 8},
        "recipe": {"data": "digits", "epochs": 5, "batch": 64, "initialisation": "siren", "signal": [3, 4]},
    },
    "in_distribution": {"split": "test", "designs_of": "train", "designs": 2, "seeds": 2, "first_seed": 100},
}  # fmt: skip
