"""The examples of docs/examples: what they add to other libraries does what it says; parts whose library is missing are skipped."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from graphalign import group
from graphalign.converters.chain import chain_spec
from graphalign.data import digits, loader
from graphalign.evaluation import evaluate
from graphalign.experiments.federated_rounds import initial

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def scrambled(network: nn.Module, seed: int) -> nn.Module:
    spec = chain_spec(dict(network.state_dict()))
    return group.apply_to_module(spec, group.random_element(spec, torch.Generator().manual_seed(seed)), network)


def test_the_monitor_merges_with_an_earlier_network_and_leaves_the_model() -> None:
    test, model = loader(digits("test"), 512), initial(0).train()
    monitor = example("lightning_callback").MergeMonitor(scrambled(model, 1), test, torch.zeros(1, 1, 8, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = monitor(model)
    assert found["merge/barrier"] == pytest.approx(0.0, abs=1e-5)
    assert found["merge/accuracy"] == evaluate(model, test).accuracy
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert monitor(initial(1))["merge/barrier"] >= 0.0


def test_the_callback_logs_every_second_epoch() -> None:
    module = example("lightning_callback")

    class Recorder:
        """What the callback uses of a LightningModule and of a Trainer."""

        current_epoch = 0
        network = initial(0)
        logged: list[Any] = []  # noqa: RUF012

        def log_dict(self, values: dict[str, float], **_: Any) -> None:
            self.logged.append(values)

    recorder = Recorder()
    callback = module.MergeCallback(lambda network: {"same": float(network is recorder.network)}, every=2)
    for recorder.current_epoch in range(4):
        callback.on_train_epoch_end(recorder, recorder)
    assert recorder.logged == [{"same": 1.0}] * 2


@pytest.mark.filterwarnings("default")  # of the other library
def test_lightning_runs_the_callback() -> None:
    pytest.importorskip("lightning")
    found = example("lightning_callback").main(epochs=1)
    assert {"merge/barrier", "merge/loss", "merge/accuracy"} <= found.keys()


@pytest.mark.filterwarnings("default")  # of the other library
def test_the_flower_strategy_averages_in_one_order() -> None:
    pytest.importorskip("flwr")
    from flwr.app import ArrayRecord, MetricRecord, RecordDict

    strategy = example("flower_digits").AlignedFedAvg()
    model = initial(0)
    for number in (1, 2):
        replies = []
        for seed in (0, 1, 2):
            sent = model if seed == 0 and number == 1 else scrambled(model, seed + 10 * number)
            content = {"arrays": ArrayRecord(sent.state_dict()), "metrics": MetricRecord({"num-examples": 10 + seed})}
            replies.append(SimpleNamespace(content=RecordDict(content), has_content=lambda: True, has_error=lambda: False))
        arrays, _ = strategy.aggregate_train(number, replies)
        for name, tensor in arrays.to_torch_state_dict().items():
            torch.testing.assert_close(tensor, model.state_dict()[name])
    assert strategy.aggregate_train(3, []) == (None, None)
