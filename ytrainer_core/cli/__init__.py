"""`ytrainer`: every stage, pipeline and registry action as a command."""

from ytrainer_core.cli.main import main

__all__ = ["main"]
