"""Fed-LPFM (arXiv 2311.08479) with a table of teacher logits, written out in float64."""

import copy

import torch
from oracles.inputs import MOMENTUM, ROUNDS, WEIGHT_DECAY, Client, cohort, new_cnn
from torch import Tensor, nn

LAM, TEMPERATURE = 0.3, 2.0


def run(clients: list[Client], teacher_logits: Tensor) -> list[Tensor]:
    """Final parameters of the global model, for teacher logits [training set, classes]."""
    model = new_cnn("proxy")
    for number in range(1, ROUNDS + 1):
        total = sum(len(client.labels) for client in cohort(clients, number))
        mean = [torch.zeros_like(w) for w in model.parameters()]
        for client in cohort(clients, number):
            trained = train(copy.deepcopy(model), client, number, teacher_logits[client.positions])
            mean = [m + len(client.labels) / total * w for m, w in zip(mean, trained, strict=True)]
        model.load_state_dict(dict(zip(model.state_dict(), mean, strict=True)))
    return list(model.parameters())


def train(model: nn.Module, client: Client, number: int, teacher_logits: Tensor) -> list[Tensor]:
    """One client's local epochs on (1 - λ) · CE + λ · T² · Σ p (log p - log q), p the teacher's and q the proxy's."""
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    for lr, batch in client.batches(number):
        logits = model(client.images[batch])
        cross_entropy = -torch.log_softmax(logits, 1)[range(len(batch)), client.labels[batch]].mean()
        p = torch.softmax(teacher_logits[batch] / TEMPERATURE, 1)
        q = torch.softmax(logits / TEMPERATURE, 1)
        divergence = (p * (p.log() - q.log())).sum(1).mean()
        loss = (1 - LAM) * cross_entropy + LAM * TEMPERATURE**2 * divergence
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for w, v, g in zip(parameters, velocity, gradients, strict=True):
                v.copy_(MOMENTUM * v + g + WEIGHT_DECAY * w)
                w.sub_(lr * v)
    return [w.detach() for w in parameters]
