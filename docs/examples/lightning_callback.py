"""Lightning: a callback that follows how far a network can be merged with one trained before.

    pip install "graphalign[demo]" "lightning>=2.5"
    python docs/examples/lightning_callback.py

After every epoch the earlier network is aligned to the one in training, and the loss barrier and the accuracy of their average
are logged. The measurement itself, `MergeMonitor`, knows nothing of Lightning: call it in a training loop of your own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import graphalign as ga

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:  # the monitor is of use without Lightning
    Callback = LightningModule = object  # type: ignore[assignment,misc]


class MergeMonitor:
    """Measures the average of a network and of an earlier one of the same architecture, aligned to it.

    Args:
        earlier: a trained network; left as it is.
        data: held-out batches (inputs, labels).
        example_input: an input of the networks.
        method: of `graphalign.align`.
    """

    def __init__(self, earlier: nn.Module, data: Iterable[Any], example_input: Tensor, method: str = "weight") -> None:
        self.earlier, self.data, self.example_input, self.method = earlier, data, example_input, method

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Barrier, and loss and accuracy of the average; the model is left as it is, and in its mode."""
        model = copy.deepcopy(model).eval()
        alignment = ga.align(model, self.earlier, example_input=self.example_input, method=self.method)
        curve = ga.barrier(model, alignment.apply(self.earlier), self.data, points=3)
        figures = {"merge/barrier": curve.barrier, "merge/loss": curve.midpoint_loss}
        return figures if curve.midpoint_accuracy is None else {**figures, "merge/accuracy": curve.midpoint_accuracy}


class MergeCallback(Callback):
    """Logs what a `MergeMonitor` measures of the submodule `network` of a LightningModule after every n-th epoch."""

    def __init__(self, monitor: MergeMonitor, every: int = 1) -> None:
        super().__init__()
        self.monitor, self.every = monitor, every

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Called by the Trainer."""
        if (trainer.current_epoch + 1) % self.every == 0:
            pl_module.log_dict(self.monitor(pl_module.network), rank_zero_only=True)


class Classifier(LightningModule):
    """A network trained by Adam on cross-entropy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with its usual learning rate."""
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(epochs: int = 4) -> dict[str, float]:
    """Trains two networks one after the other, the second one under observation, and returns what was logged last."""
    from torch.utils.data import DataLoader

    from graphalign.data import digits, loader
    from graphalign.experiments.federated_rounds import initial

    train, test = digits("train"), loader(digits("test"), 512)
    settings: dict[str, Any] = {"max_epochs": epochs, "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

    def fit(seed: int, *callbacks: Any) -> tuple[nn.Module, dict[str, float]]:
        module = Classifier(initial(seed))
        batches = DataLoader(train, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(seed))
        trainer = Trainer(**settings, callbacks=list(callbacks), enable_model_summary=False)
        trainer.fit(module, batches)
        return module.network.eval(), {name: float(value) for name, value in trainer.callback_metrics.items()}

    earlier, _ = fit(0)
    monitor = MergeMonitor(earlier, test, train.tensors[0][:2])
    _, logged = fit(1, MergeCallback(monitor))
    return logged


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.4f}")
