"""A partition: clients of unequal sizes."""

import numpy as np

from fedray import Indices, Partition


class Triangular(Partition):
    """Client i of K holds a share i + 1 of 1 + 2 + ... + K of the shuffled examples."""

    def split(self, labels: Indices, rng: np.random.Generator) -> list[Indices]:
        """Divide the examples; the random numbers derive from the seed of the run."""
        shares = np.cumsum(np.arange(1, self.clients + 1))
        cuts = (shares[:-1] * len(labels)) // shares[-1]
        return [np.sort(part) for part in np.split(rng.permutation(len(labels)), cuts)]
