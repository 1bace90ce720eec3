"""A permutation of the corpus, easy rows first.

Every mode gives each row a difficulty; the order sorts by it, ties by the row's
place in the file. A row without targets, or without variance where a mode needs
one, counts as the easiest: it has nothing to teach, so it may come at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ytrainer_core.config import OrderConfig

Floats = npt.NDArray[np.float64]
_TINY = 1e-6
"""Standard deviation, in nats, below which a row counts as constant."""


def similarity(nll: Floats, entropy: Floats, config: OrderConfig) -> float:
    """-cos(z(entropy), z(nll)): easy where the model is unsure exactly where it is wrong."""
    if nll.std() < _TINY or entropy.std() < _TINY:
        return -1.0  # no variance: the easiest
    z_nll = (nll - nll.mean()) / nll.std()
    z_entropy = (entropy - entropy.mean()) / entropy.std()
    return float(-(z_nll @ z_entropy) / (np.linalg.norm(z_nll) * np.linalg.norm(z_entropy)))


def filtered(nll: Floats, entropy: Floats, config: OrderConfig) -> float:
    """Tokens of high loss: 1 each where the model is sure, 0.5 each where it is not."""
    far = nll > config.filtered_min_nll
    unsure = entropy > config.filtered_entropy_split
    return float((far & ~unsure).sum() + 0.5 * (far & unsure).sum())


def mean_loss(nll: Floats, entropy: Floats, config: OrderConfig) -> float:
    """Mean nll in nats."""
    return float(nll.mean())


def mean_entropy(nll: Floats, entropy: Floats, config: OrderConfig) -> float:
    """Mean entropy in nats."""
    return float(entropy.mean())


def length(nll: Floats, entropy: Floats, config: OrderConfig) -> float:
    """Target tokens."""
    return float(len(nll))


Difficulty = Callable[[Floats, Floats, OrderConfig], float]

DIFFICULTIES: dict[str, Difficulty] = {
    "similarity": similarity,
    "filtered": filtered,
    "mean_loss": mean_loss,
    "entropy": mean_entropy,
    "length": length,
}
"""Mode -> difficulty of one row from its nll and entropy, each [targets], nats."""


def difficulties(
    nll: Sequence[Floats], entropy: Sequence[Floats], config: OrderConfig, seed: int
) -> Floats:
    """Difficulty of every row, in file order; for `none` the row number, for `random` a draw."""
    if config.mode == "none":
        return np.arange(len(nll), dtype=np.float64)
    if config.mode == "random":
        return np.random.default_rng(seed).permutation(len(nll)).astype(np.float64)
    rate = DIFFICULTIES[config.mode]
    values = [
        rate(np.asarray(n, np.float64), np.asarray(h, np.float64), config) if len(n) else -np.inf
        for n, h in zip(nll, entropy, strict=True)
    ]
    return np.asarray(values)


def permutation(difficulty: Floats, *, descending: bool) -> list[int]:
    """Row numbers in training order; equal difficulties keep their order in the file."""
    order = np.argsort(-difficulty if descending else difficulty, kind="stable")
    return [int(i) for i in order]
