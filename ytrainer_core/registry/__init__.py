"""The model registry, where nothing counts as registered until it is proved to reload unchanged.

MLflow can destroy an adapter without a word: what it loads back has random weights and answers as
if nothing had happened. So every version is loaded by a fresh process from what was stored, its
files are compared with the digests taken before the upload, and its logits on a probe batch with
those of the model that was trained. Only then does an alias move.

    register_model ─▶ @challenger ─▶ publish      promote ─▶ @champion      rollback: the one before

This package and tracking/ are the only ones that import mlflow.
"""

from ytrainer_core.registry.ancestry import Ancestor, VersionDetails, show
from ytrainer_core.registry.listing import list_models
from ytrainer_core.registry.loading import fetch_registered, load_registered, verify
from ytrainer_core.registry.outputs import Output, find_output, how_to_repeat
from ytrainer_core.registry.promotion import promote, rollback
from ytrainer_core.registry.publish import publish
from ytrainer_core.registry.register import register_model
from ytrainer_core.registry.versions import (
    ModelSummary,
    Promotion,
    Version,
    VersionSummary,
)

__all__ = [
    "Ancestor",
    "ModelSummary",
    "Output",
    "Promotion",
    "Version",
    "VersionDetails",
    "VersionSummary",
    "fetch_registered",
    "find_output",
    "how_to_repeat",
    "list_models",
    "load_registered",
    "promote",
    "publish",
    "register_model",
    "rollback",
    "show",
    "verify",
]
