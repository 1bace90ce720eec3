"""What MLflow accepts as a name or a value, and what may be shown of a URI."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim': {'learning_rate': 1}} -> {'optim.learning_rate': 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def safe_name(name: str) -> str:
    """A name that MLflow accepts: other characters than its own become '_'."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def text_of(value: object) -> str:
    """A value as text that every database can hold: no lone surrogates, no NUL."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def first_line(error: BaseException) -> str:
    """What an error says first, without passwords."""
    return without_password((str(error).splitlines() or [""])[0])


def without_password(text: str) -> str:
    """The text with 'user:password@' taken out of its URLs: parameters are read by many."""
    return re.sub(r"//[^/@\s]+@", "//", text)
