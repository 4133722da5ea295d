"""A run with the classes of this folder from Python: `python -m examples.script`, from the folder above."""

import sys

from examples.partition import Triangular
from examples.proxy import linear
from examples.source import stripes
from examples.strategy import ConfidencePenalty
from fedray import SGD, Data, Experiment, ReadRequest, Training, run

if __name__ == "__main__":
    train = stripes("400", ReadRequest("train"))
    test = stripes("100", ReadRequest("test"))
    experiment = Experiment(
        data=Data(train=train, test=test),  # arrays; a torch or Hugging Face Dataset also works
        partition=Triangular(clients=4),
        proxy=linear,
        strategy=ConfidencePenalty(beta=0.2),
        training=Training(rounds=3, batch_size=16, optimizer=SGD(lr=0.05)),
    )
    finished = run(experiment, results=sys.argv[1] if len(sys.argv) > 1 else "results/examples")
    print(finished.rounds[["round", "test_accuracy"]].to_string(index=False))
    print({name: array.shape for name, array in finished.weights.items()})
