"""Flower: its message API, FedAvg, and simulation on Ray with one core per client."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from workload import Workload, announce, arguments, evaluate, load, train

THREADS = 2
client, server = ClientApp(), ServerApp()


def main() -> None:
    workload = load(arguments(__doc__).parse_args().folder)
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=len(workload.shards),
        backend_name="ray",
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0}},
    )


@client.train()
def fit(message: Message, _: Context) -> Message:
    config = message.content["config"]
    workload, model = cached_workload(config["folder"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(workload, model, config["server-round"], config["client"])
    size = MetricRecord({"num-examples": workload.size(config["client"])})
    reply = {"arrays": ArrayRecord(model.state_dict()), "metrics": size}
    return Message(content=RecordDict(reply), reply_to=message)


@cache
def cached_workload(folder: str) -> tuple[Workload, nn.Module]:
    """Read the workload once per Ray actor."""
    torch.set_num_threads(1)
    workload = load(Path(folder))
    return workload, workload.blank()


class SharedCohorts(FedAvg):
    """Uses the workload's cohorts instead of Flower's sampling; the message names the client of a node."""

    def __init__(self, workload: Workload, folder: str) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._workload, self._folder = workload, folder

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["server-round"], config["folder"] = server_round, self._folder
        cohort = self._workload.cohort(server_round)
        for node, member in zip(sorted(grid.get_node_ids()), cohort, strict=False):
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({**config, "client": member})})
            yield Message(content=content, message_type="train", dst_node_id=node)


@server.main()
def serve(grid: Grid, _: Context) -> None:
    options = arguments(__doc__).parse_args()
    workload = load(options.folder)
    model = workload.initial()
    torch.set_num_threads(THREADS)

    def central(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        if number == 0:
            return None
        model.load_state_dict(arrays.to_torch_state_dict())
        score = evaluate(workload, model)
        announce(number, options.rounds, score)
        return MetricRecord({"loss": score.loss, "accuracy": score.accuracy})

    SharedCohorts(workload, str(options.folder)).start(
        grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=options.rounds, evaluate_fn=central
    )


if __name__ == "__main__":
    import flower_app  # by name, so that Ray's actors import it once instead of unpickling it with each message

    flower_app.main()
