"""Flower: federated averaging of clients that did not start from one network, aligned before they are averaged.

    pip install "graphalign[demo]" "flwr[simulation]>=1.22"
    python docs/examples/flower_digits.py --clients 4 --rounds 3

Each client draws its own initial network and sees few of the ten digits. `AlignedFedAvg` is Flower's FedAvg with one method replaced;
`--plain` runs FedAvg itself for comparison.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor

from graphalign import federated_average
from graphalign.data import digits, loader
from graphalign.evaluation import evaluate
from graphalign.experiments.federated_rounds import initial, split_by_class
from graphalign.experiments.training import fit


class AlignedFedAvg(FedAvg):
    """FedAvg that brings the units of all clients into one order before it averages their networks.

    The order is that of the first client in the first round, and of the last average afterwards.
    """

    def __init__(self, method: str = "weight", **settings: Any) -> None:
        super().__init__(**settings)
        self.method = method
        self.average: Mapping[str, Tensor] | None = None

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The aligned average of the clients that answered, and the metrics of FedAvg."""
        answers = list(replies)
        _, metrics = super().aggregate_train(server_round, answers)  # checks the answers and averages their metrics
        contents = [answer.content for answer in answers if answer.has_content()]
        if not contents:
            return None, None
        states = [next(iter(content.array_records.values())).to_torch_state_dict() for content in contents]
        samples = [float(next(iter(content.metric_records.values()))[self.weighted_by_key]) for content in contents]
        reference = 0 if self.average is None else self.average
        self.average = federated_average(states, samples, align=self.method, reference=reference)
        return ArrayRecord(self.average), metrics


client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """One client's part of a round: five epochs on its own examples."""
    number, clients = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    x, y = digits("train").tensors
    part = split_by_class(y, clients, 0.3, seed=0)[number]
    network = initial(number)
    this_round = int(message.content["config"]["server-round"])
    if this_round > 1:
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    fit(network, x[part], y[part], epochs=5, batch=20, rate=3e-3, seed=this_round)
    reply = {"arrays": ArrayRecord(network.state_dict()), "metrics": MetricRecord({"num-examples": len(part)})}
    return Message(content=RecordDict(reply), reply_to=message)


def server(strategy: FedAvg, rounds: int) -> ServerApp:
    """A server that prints the test accuracy of the average of every round."""
    app = ServerApp()
    test = loader(digits("test"), 512)

    def accuracy(number: int, arrays: ArrayRecord) -> MetricRecord:
        network = initial(0)
        network.load_state_dict(arrays.to_torch_state_dict())
        score = evaluate(network, test)
        print(f"round {number}: accuracy of the average {100 * (score.accuracy or 0.0):.1f} %", flush=True)
        return MetricRecord({"accuracy": score.accuracy or 0.0, "loss": score.loss})

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(grid=grid, initial_arrays=ArrayRecord(initial(0).state_dict()), num_rounds=rounds, evaluate_fn=accuracy)

    return app


def run(clients: int, rounds: int, plain: bool = False) -> None:
    """Runs a simulated federation in this machine's processes."""
    settings = {"fraction_evaluate": 0.0, "min_train_nodes": clients, "min_available_nodes": clients}
    strategy = FedAvg(**settings) if plain else AlignedFedAvg(**settings)
    backend = {"init_args": {"num_cpus": 2, "include_dashboard": False}, "client_resources": {"num_cpus": 2, "num_gpus": 0.0}}
    run_simulation(server(strategy, rounds), client, num_supernodes=clients, backend_config=backend)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="FedAvg without alignment")
    options = parser.parse_args()
    run(options.clients, options.rounds, options.plain)
