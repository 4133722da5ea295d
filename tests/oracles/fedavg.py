"""FedAvg (McMahan et al., arXiv 1602.05629) with momentum SGD, written out in float64."""

import copy

import torch
from oracles.inputs import MOMENTUM, ROUNDS, WEIGHT_DECAY, Client, cohort, new_cnn
from torch import Tensor, nn


def run(clients: list[Client], *, norm: bool = False, mu: float = 0.0) -> list[Tensor]:
    """Final parameters and buffers of the global model. With `mu` > 0 it is FedProx (arXiv 1812.06127)."""
    model = new_cnn("proxy", norm=norm)
    for number in range(1, ROUNDS + 1):
        members = cohort(clients, number)
        updates = [train(copy.deepcopy(model), client, number, mu) for client in members]
        sizes = [len(client.labels) for client in members]
        with torch.no_grad():
            for i, target in enumerate(model.state_dict().values()):
                mean = sum(n * update[i] for n, update in zip(sizes, updates, strict=True)) / sum(sizes)
                target.copy_(mean if target.is_floating_point() else mean.round())
    return list(model.state_dict().values())


def train(model: nn.Module, client: Client, number: int, mu: float) -> list[Tensor]:
    """One client's local epochs, from the model's weights w_t.

    g = ∇CE(w) + μ (w - w_t);  v ← m v + g + wd w;  w ← w - lr v, with v = 0 at the start.
    """
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    velocity = [torch.zeros_like(p) for p in parameters]
    for lr, batch in client.batches(number):
        log_probabilities = torch.log_softmax(model(client.images[batch]), 1)
        loss = -log_probabilities[range(len(batch)), client.labels[batch]].mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for w, w_t, v, g in zip(parameters, start, velocity, gradients, strict=True):
                v.copy_(MOMENTUM * v + g + mu * (w - w_t) + WEIGHT_DECAY * w)
                w.sub_(lr * v)
    return list(model.state_dict().values())
