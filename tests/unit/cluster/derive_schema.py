"""How schemas/trainjob.json is made: `python derive_schema.py FOLDER OUT`.

FOLDER holds the unpacked wheel kubeflow_trainer_api, the models that Kubeflow generates from the
API's OpenAPI and publishes. They become one JSON schema that refuses unknown fields, as the
API's own structural schema does; descriptions, titles and defaults are left out.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

_BY_PATTERN = {
    "IoK8sApimachineryPkgApiResourceQuantity": {
        "anyOf": [
            {"type": "number"},
            {
                "type": "string",
                "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)"
                r"([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+(\.[0-9]*)?)?$",
            },
        ]
    },
}
"""The model that holds one of several types, which pydantic describes by its own machinery."""

_PROSE = ("description", "title", "default")


def main(wheel: Path, out: Path) -> None:
    """Write the schema of a TrainJob."""
    sys.path.insert(0, str(wheel))
    models = importlib.import_module("kubeflow_trainer_api.models.trainer_v1alpha1_train_job")
    schema = models.TrainerV1alpha1TrainJob.model_json_schema(by_alias=True)
    definitions = {
        name: _BY_PATTERN.get(name) or _tidy(node) for name, node in schema.pop("$defs").items()
    }
    tree = _tidy(schema)
    tree["$defs"] = {name: definitions[name] for name in sorted(_used(tree, definitions))}
    tree["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    out.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _tidy(node: Any) -> Any:
    """Without prose and without null, which the API drops; objects with properties are closed."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = [choice for choice in node.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return _tidy(choices[0])
    tidy: dict[str, Any] = {}
    for name, value in node.items():
        if name == "properties":
            tidy[name] = {field: _tidy(inner) for field, inner in value.items()}
        elif name not in _PROSE:
            tidy[name] = _tidy(value)
    if "properties" in tidy:
        tidy.setdefault("additionalProperties", False)
    return tidy


def _used(tree: Any, definitions: dict[str, Any]) -> set[str]:
    """Names of the definitions that are reached from a tree."""
    found: set[str] = set()
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                left.append(definitions[name])
            left += node.values()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
