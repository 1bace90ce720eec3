"""The kto component."""

from components.kto.component import kto

__all__ = ["kto"]
