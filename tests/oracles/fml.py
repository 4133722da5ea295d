"""FML (Shen et al., arXiv 2006.16765), written out in float64."""

import copy

import torch
from oracles.inputs import MOMENTUM, ROUNDS, WEIGHT_DECAY, Client, cohort, new_cnn
from torch import Tensor, nn

ALPHA, BETA = 0.7, 0.4


def run(clients: list[Client]) -> list[Tensor]:
    """Final parameters of the global proxy. A private model stays on its client from round to round."""
    proxy = new_cnn("proxy")
    private = {client.number: new_cnn("private", client.number) for client in clients}
    for number in range(1, ROUNDS + 1):
        members = cohort(clients, number)
        updates = []
        for client in members:
            update = copy.deepcopy(proxy)
            train(update, private[client.number], client, number)
            updates.append(list(update.parameters()))
        with torch.no_grad():
            for w, *locals_ in zip(proxy.parameters(), *updates, strict=True):
                w.copy_(sum(locals_) / len(members))  # equal weights, whatever the number of examples
    return list(proxy.parameters())


def train(proxy: nn.Module, private: nn.Module, client: Client, number: int) -> None:
    """Train both models in place: each step computes both losses first, then updates both models.

    Proxy: β · CE + (1 - β) · KL(private ‖ proxy). Private model: α · CE + (1 - α) · KL(proxy ‖ private).
    """
    models = (proxy, private)
    velocity = [[torch.zeros_like(p) for p in model.parameters()] for model in models]
    for lr, batch in client.batches(number):
        logs = [torch.log_softmax(model(client.images[batch]), 1) for model in models]
        gradients = [
            torch.autograd.grad(_loss(logs[i], logs[1 - i].detach(), client.labels[batch], weight), model.parameters())
            for i, (model, weight) in enumerate(zip(models, (BETA, ALPHA), strict=True))
        ]
        with torch.no_grad():
            for i, model in enumerate(models):
                for w, v, g in zip(model.parameters(), velocity[i], gradients[i], strict=True):
                    v.copy_(MOMENTUM * v + g + WEIGHT_DECAY * w)
                    w.sub_(lr * v)


def _loss(log_q: Tensor, log_p: Tensor, labels: Tensor, weight: float) -> Tensor:
    """weight · CE + (1 - weight) · KL(p ‖ q), from log-probabilities [B, C]."""
    cross_entropy = -log_q[range(len(labels)), labels].mean()
    divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
    return weight * cross_entropy + (1 - weight) * divergence
