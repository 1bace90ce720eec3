"""Answers that shall be JSON: whether they are, and whether they fit a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ytrainer_core.errors import ConfigError
from ytrainer_core.files import home

_BLOCK = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*?)```", re.DOTALL)
_FIELD = "evaluate.json_schema"


def json_valid(answer: str, expected: str) -> float:
    """1 where the answer is JSON: the whole of it, or its last fenced block (```json or ```).

    NaN and Infinity are none (RFC 8259). What is expected does not matter.
    """
    return float(_parsed(answer) is not None)


def schema_metric(name: str) -> Callable[[str, str], float]:
    """f(answer, expected): 1 where the answer is JSON that fits the schema in file `name`.

    The file may lie at s3://. Raises ConfigError where it is missing or holds no JSON schema.
    """
    import jsonschema
    from referencing import Registry

    schema = _read_schema(name)
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(
            f"{_FIELD}: {name} is no JSON schema: at {error.json_path}, {error.message}. Mend it."
        ) from error
    validator = kind(schema, registry=Registry())  # of its own, so that no $ref is downloaded

    def json_schema(answer: str, expected: str) -> float:
        found = _parsed(answer)
        return float(found is not None and _fits(validator, found[0], name))

    _fits(validator, None, name)
    return json_schema


def _fits(validator: Any, value: Any, name: str) -> bool:
    from referencing.exceptions import Unresolvable

    try:
        return bool(validator.is_valid(value))
    except Unresolvable as error:
        raise ConfigError(
            f"{_FIELD}: {name} refers to '{error.ref}', which is not in the file. Put it under "
            "$defs there."
        ) from error


def _read_schema(name: str) -> Any:
    from ytrainer_core.storage import fetch, is_remote

    path = fetch(name, home() / "cache" / "s3") if is_remote(name) else Path(name).expanduser()
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{_FIELD}: {name} cannot be read ({error.strerror}; looked in {Path.cwd()}). Correct "
            "the path."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{_FIELD}: {name} is not JSON ({error}). Mend it.") from error


def _parsed(answer: str) -> tuple[Any] | None:
    """(the value,) of an answer, since the value itself may be null; None where it is no JSON."""
    blocks = _BLOCK.findall(answer)
    for text in (answer, *blocks[-1:]):
        try:
            return (json.loads(text, parse_constant=_refuse),)
        except (ValueError, RecursionError):
            continue
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
