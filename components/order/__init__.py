"""The order component."""

from components.order.component import order

__all__ = ["order"]
