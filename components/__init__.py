"""Kubeflow components: typed shells around the stages, one folder each.

A component adds nothing to its stage. Its parameters have the defaults of the
config fields they stand for; everything else goes through `config`.
"""

from typing import Any

from ytrainer_core import __version__
from ytrainer_core.config import FinetuneConfig
from ytrainer_core.config.headline import headline_default

IMAGE = f"ytrainer:{__version__}"
"""Image of every component; a release puts its digest in place of the tag."""


def default(parameter: str) -> Any:
    """Default of a headline parameter, from the config field it stands for."""
    return headline_default(FinetuneConfig, parameter)
