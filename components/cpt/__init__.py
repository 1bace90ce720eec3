"""The cpt component."""

from components.cpt.component import cpt

__all__ = ["cpt"]
