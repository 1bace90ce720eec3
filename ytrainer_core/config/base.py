"""How a config is read: one YAML, then dotted overrides, then every fault at once.

One YAML serves every command. A stage reads the sections it declares and leaves
the sections of other stages alone; a key that no stage knows is refused with the
nearest known name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ytrainer_core.errors import ConfigError


def split_commas(value: object) -> object:
    """'a.json, b.json' -> ('a.json', 'b.json'); so that a list can be typed as one flag."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Strings = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
"""A list of strings, given as a YAML list or as one comma-separated string."""


def _numbers(value: object) -> object:
    """'1,2' or 3 -> a list of them; so that a list of numbers can be typed as one flag."""
    return (value,) if isinstance(value, int) else split_commas(value)


Ints = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
"""A list of integers, given as a YAML list or as one comma-separated string."""


def _pairs(value: object) -> object:
    """{'a': 'b'} or 'a=b, c=d' -> ('a=b', 'c=d'); so that a mapping can be typed as one flag."""
    if isinstance(value, Mapping):
        value = tuple(f"{name}={_as_typed(given)}" for name, given in value.items())
    parts = split_commas(value)
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        for part in parts:
            name, equals, _ = str(part).partition("=")
            if not equals or not name.strip():
                raise ValueError(f"'{part}' is not NAME=VALUE")
    return parts


def _as_typed(value: object) -> object:
    """What a YAML reader made of yes, no, on and off is taken back to words."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


Pairs = Annotated[tuple[str, ...], BeforeValidator(_pairs)]
"""Names with values ('name=value'), given as a YAML mapping, a list or one comma-separated text."""


def as_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """('a=b', 'c=d') -> {'a': 'b', 'c': 'd'}, blanks around names and values taken off."""
    split = (pair.partition("=") for pair in pairs)
    return {name.strip(): value.strip() for name, _, value in split}


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of knobs. The docstring below each field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


S = TypeVar("S", bound=Section)


def walk_fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, pydantic FieldInfo) of every leaf knob of a config model."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from walk_fields(field.annotation, f"{dotted}.")
        else:
            yield dotted, field


def description_of(field: Any) -> str:
    """A knob's description in one line."""
    return " ".join((field.description or "").split())


def default_of(model: type[Section], dotted: str) -> Any:
    """The default of one knob, e.g. default_of(SftConfig, 'optim.learning_rate')."""
    for name, field in walk_fields(model):
        if name == dotted:
            return field.get_default(call_default_factory=True)
    raise KeyError(dotted)


def set_dotted(tree: dict[str, Any], dotted: str, value: object) -> None:
    """Set tree['a']['b'] for 'a.b', making the sections on the way."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"{dotted}: '{parent}' is set to {child!r}, which is not a section. "
                "Write it as a mapping, or leave out the override."
            )
        tree = child
    tree[leaf] = value


def get_dotted(tree: Mapping[str, Any], dotted: str) -> Any:
    """The value at 'a.b', or None where nothing is set."""
    node: Any = tree
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping. Raises ConfigError with file and line."""
    if not path.exists():
        raise ConfigError(f"{path}: no such config file. Start from one in examples/.")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{where}: {reason}. Mend the YAML there.") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}, expected 'section:' keys.")
    return tree


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """['optim.learning_rate=1e-4'] -> {'optim.learning_rate': '1e-4'}, values read as YAML."""
    parsed: dict[str, Any] = {}
    faults = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            faults.append(f"'{override}' is not key=value. Example: optim.learning_rate=1e-4")
            continue
        try:
            parsed[key.strip()] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            parsed[key.strip()] = text
    if faults:
        raise ConfigError(*faults)
    return parsed


def read_tree(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """One YAML (or none) with its overrides applied, not yet validated."""
    tree = read_yaml(path) if path else {}
    for dotted, value in parse_overrides(overrides).items():
        set_dotted(tree, dotted, value)
    return tree


def validate_tree(
    model: type[S],
    tree: Mapping[str, Any],
    *,
    foreign: Iterable[str] = (),
    path: Path | None = None,
) -> S:
    """Validate a tree against a config model, all faults in one ConfigError.

    foreign: top-level names that belong to other stages and are left alone here.
    path: the YAML the tree came from, for line numbers in the faults.
    """
    own = _with_stage_defaults(model, tree)
    skipped = set(foreign)
    unknown = [key for key in tree if key not in own and key not in skipped]
    lines = key_lines(path) if path else {}
    known = [name for name, _ in walk_fields(model)]
    faults = [_unknown_key(str(key), known, path, lines) for key in unknown]  # YAML: `on` is True
    try:
        config = model.model_validate(own)
    except ValidationError as error:
        faults += [_describe(fault, known, path, lines) for fault in error.errors()]
    if faults:
        raise ConfigError(*faults)
    return config


def _with_stage_defaults(model: type[Section], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `tree` that `model` declares, each section filled with the stage's defaults.

    A stage may set a section's default (pretrain: cross_entropy); naming one knob of that
    section must not bring back the general defaults of the others.
    """
    own: dict[str, Any] = {}
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if field is None:
            continue
        if isinstance(field.default, Section) and isinstance(value, Mapping):
            value = {**field.default.model_dump(exclude_unset=True), **value}
        own[key] = value
    return own


def key_lines(path: Path) -> dict[str, int]:
    """Dotted key -> line number in the YAML, 1-based."""
    found: dict[str, int] = {}

    def visit(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                dotted = f"{prefix}{key.value}"
                found[dotted] = key.start_mark.line + 1
                visit(value, f"{dotted}.")

    visit(yaml.compose(path.read_text(encoding="utf-8")), "")
    return found


def _where(dotted: str, path: Path | None, lines: Mapping[str, int]) -> str:
    return f"{path}:{lines[dotted]}: {dotted}" if path and dotted in lines else dotted


def _unknown_key(
    dotted: str, known: Sequence[str], path: Path | None, lines: Mapping[str, int]
) -> str:
    leaf = dotted.rsplit(".", 1)[-1]
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    sections = {name.split(".", 1)[0] for name in known}
    near = difflib.get_close_matches(dotted, [*known, *sections], n=1, cutoff=0.6)
    near = near or [by_leaf[n] for n in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)]
    remedy = f"Did you mean '{near[0]}'?" if near else "`ytrainer schema <stage>` lists all keys."
    return f"{_where(dotted, path, lines)}: unknown key. {remedy}"


def _describe(
    fault: ErrorDetails, known: Sequence[str], path: Path | None, lines: Mapping[str, int]
) -> str:
    dotted = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return _unknown_key(dotted, known, path, lines)
    if fault["type"] == "missing":
        return f"{dotted}: must be set, in the YAML or as {dotted}=VALUE."
    message = fault["msg"].removeprefix("Value error, ")
    where = _where(dotted, path, lines) if dotted else str(path or "config")
    return f"{where}: {message} (got {fault['input']!r})" if dotted else f"{where}: {message}"


def dump_json(config: Section) -> str:
    """The resolved config as stable JSON: what is saved beside every output."""
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
