"""The bearer token of the Kubeflow API: read anew for every request, shown to nobody."""

from __future__ import annotations

import os
from pathlib import Path

from ytrainer_core.errors import ConfigError

TOKEN_VARIABLE = "KFP_TOKEN"
TOKEN_FILE_VARIABLE = "KFP_TOKEN_FILE"
"""Environment variable: a file with the token, for tokens that expire and are renewed there."""

_IN_CLUSTER_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
_IN_CLUSTER_FILE = "/var/run/secrets/kubeflow/pipelines/token"


def read_token() -> str:
    """The token now, from KFP_TOKEN_FILE, KFP_TOKEN, or a pod's own account; else empty.

    Raises ConfigError where the named file cannot be read.
    """
    named = os.environ.get(TOKEN_FILE_VARIABLE, "")
    if named:
        try:
            return Path(named).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{TOKEN_FILE_VARIABLE}={named}: cannot be read ({type(error).__name__}). Correct "
                f"the path, or give the token as {TOKEN_VARIABLE}."
            ) from error
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return token
    mounted = Path(os.environ.get(_IN_CLUSTER_VARIABLE) or _IN_CLUSTER_FILE)
    return mounted.read_text(encoding="utf-8").strip() if mounted.is_file() else ""
