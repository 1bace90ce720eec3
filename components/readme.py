"""Write components/<name>/README.md from the component's kfp spec and its stage's config.

python -m components.readme          write them
python -m components.readme --check  exit 1 and name the stale ones
"""

import argparse
import importlib
import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ytrainer_core.config import STAGE_CONFIGS, walk_fields
from ytrainer_core.config.base import description_of
from ytrainer_core.config.headline import HEADLINE, headline_description
from ytrainer_core.files import write_text

FOLDER = Path(__file__).parent

_CONFIG = "Every other knob of the table below, as a mapping of sections."
_OUTPUT_KINDS = {"Integer": "int", "Float": "float", "String": "str", "Boolean": "bool"} | {
    "JsonObject": "dict",
    "JsonArray": "list",
}
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def names() -> list[str]:
    """All components: the folders that hold a component.py."""
    return sorted(path.parent.name for path in FOLDER.glob("*/component.py"))


def load(name: str) -> Any:
    """The kfp component object of one folder."""
    return getattr(importlib.import_module(f"components.{name}.component"), name)


def readme(name: str) -> str:
    """The whole README of one component."""
    component = load(name)
    spec, model = component.component_spec, STAGE_CONFIGS[name]
    inputs = spec.inputs or {}
    outputs = spec.outputs or {}
    parameters = {key: given for key, given in inputs.items() if key != "config"}
    plain = {key: given for key, given in parameters.items() if not _is_artifact(given.type)}
    required = [key for key, given in plain.items() if not given.optional]
    lines = [
        "<!-- Written by `python -m components.readme`; edit the config field or component.py. -->",
        f"# {name}",
        "",
        inspect.cleandoc(component.python_func.__doc__ or ""),
        "",
        f"The [component](component.py) runs the stage that `ytrainer {name}` runs, in the image "
        f"`{_image(spec)}`.",
        "",
        "## Inputs",
        "",
        *_table(
            ("name", "kind"),
            [(f"`{key}`", _kind(given.type)) for key, given in inputs.items()
             if _is_artifact(given.type) or key in required],
        ),
        "## Outputs",
        "",
        *_table(
            ("name", "kind"),
            [(f"`{key}`", _kind(made.type)) for key, made in outputs.items()],
        ),
        "## Parameters",
        "",
        *_table(
            ("name", "type", "default", "config key", "meaning"),
            [
                (
                    f"`{key}`",
                    _kind(given.type),
                    _code(given.default),
                    f"`{HEADLINE[key]}`",
                    headline_description(model, key),
                )
                for key, given in plain.items()
                if key not in required
            ]
            + [("`config`", "dict", "`{}`", "", _CONFIG)],
        ),
        f"## All knobs of the stage (`{model.__name__}`)",
        "",
        *_table(
            ("key", "type", "default", "meaning"),
            [
                (
                    f"`{key}`",
                    type_text(field.annotation, field.metadata),
                    _code(field.get_default(call_default_factory=True)),
                    description_of(field),
                )
                for key, field in walk_fields(model)
            ],
        ),
    ]  # fmt: skip
    return "\n".join(lines).rstrip("\n") + "\n"


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """A type as a person reads it: 'int ≥ 0', '`a` · `b`', 'list of str'."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " · ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in arguments)
    text = "none" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
    # a Field(ge=…) inside Annotated[…] is kept whole; its bounds are in its own metadata
    flat = [part for item in metadata for part in getattr(item, "metadata", None) or [item]]
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in flat
        for name, sign in _BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    return " ".join([text, ", ".join(bounds)]).strip()


def _is_artifact(kind: str) -> bool:
    return "@" in kind  # e.g. system.Dataset@0.0.1


def _kind(kind: str) -> str:
    plain = kind.split("@")[0].removeprefix("system.")
    return _OUTPUT_KINDS.get(plain) or (
        {"NUMBER_INTEGER": "int", "NUMBER_DOUBLE": "float", "STRING": "str", "BOOLEAN": "bool"}
        | {"STRUCT": "dict", "LIST": "list"}
    ).get(plain, plain)


def _image(spec: Any) -> str:
    return str(spec.implementation.container.image)


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Markdown lines of a table and the empty line after it; 'None.' where there is no row."""
    if not rows:
        return ["None.", ""]
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]


def stale() -> list[Path]:
    """READMEs that are missing or differ from what would be written."""
    paths = {name: FOLDER / name / "README.md" for name in names()}
    return [
        path
        for name, path in paths.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != readme(name)
    ]


def main() -> int:
    """Write or check; 1 where --check finds a stale file."""
    parser = argparse.ArgumentParser(prog="python -m components.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where stale")
    if parser.parse_args().check:
        found = stale()
        for path in found:
            print(f"{path}: is stale. Run: python -m components.readme", file=sys.stderr)
        return bool(found)
    for name in names():
        write_text(FOLDER / name / "README.md", readme(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
