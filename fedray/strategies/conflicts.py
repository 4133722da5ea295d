"""Reasons why a strategy cannot be combined with another section, which several strategies share."""

from fedray.training.sections import SGD, AnyOptimizer


def sgd_conflict(optimizer: AnyOptimizer, use: str) -> str | None:
    """Return None for SGD whose momentum starts at zero in every round, else the reason.

    `use` is a clause on how the strategy uses the steps of SGD.
    """
    if isinstance(optimizer, SGD):
        if optimizer.state == "reset":
            return None
        return (
            f"{use}, and training.optimizer.state is 'kept', so that a round has steps of earlier ones; set it to reset"
        )
    return (
        f"{use}, and training.optimizer.name is '{optimizer.name}', whose steps are not sums of gradients; "
        "set it to sgd"
    )
