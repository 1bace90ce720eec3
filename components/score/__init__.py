"""The score component."""

from components.score.component import score

__all__ = ["score"]
