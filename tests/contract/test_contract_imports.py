"""Who may import whom: arrows point down, and heavy services stay behind their one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ytrainer_core", "components", "pipelines")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "config", "progress", "processes"),
    ("data", "objectives", "storage"),
    ("scoring", "curriculum", "training", "preference", "evaluation", "reports"),
    ("tracking", "registry", "verify", "cluster", "stages", "demo"),
    ("cli",),
)
"""Parts of ytrainer_core, lowest first. A part imports its own layer and those below."""

LAYER = {part: depth for depth, parts in enumerate(LAYERS) for part in parts}
BARE = [part for parts in LAYERS[:3] for part in parts]
"""What a GPU box without kfp, mlflow and boto3 can import."""

DOORS = {
    "mlflow": ("ytrainer_core/registry/", "ytrainer_core/tracking/"),
    "boto3": ("ytrainer_core/storage/",),
    "botocore": ("ytrainer_core/storage/",),
}
"""Third-party package -> the only files that import it; a folder ends in /."""


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also inside functions and TYPE_CHECKING blocks.

    `from a import b` gives 'a.b', since b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def fault(file: str, imported: str) -> str:
    """Why `file` (relative to the root) must not import a name; empty where it may."""
    top, *rest = imported.split(".")
    package, *inside = Path(file).with_suffix("").parts
    if imported.startswith("."):
        return "relative imports hide their layer"
    if top in DOORS and not file.startswith(DOORS[top]):
        return f"only {', '.join(DOORS[top])} may import {top}"
    if top == "kfp" and package == "ytrainer_core":
        return "ytrainer_core never imports kfp"
    if top not in PACKAGES:
        return ""
    if package == "ytrainer_core":
        own = LAYER.get(inside[0], -1)
        if top == "components":
            return "stages do not know their components"
        if top == "pipelines":
            return "" if inside[0] == "cli" else "only the command line runs pipelines"
        theirs = LAYER.get(rest[0], -1) if rest else -1
        return "" if theirs <= own else f"{inside[0]} lies below {rest[0]}"
    if package == "components":
        return "components import no pipeline" if top == "pipelines" else ""
    return "pipelines know no command line" if rest[:1] == ["cli"] else ""


def files() -> list[str]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@pytest.mark.parametrize(
    ("file", "imported"),
    [
        ("ytrainer_core/data/reader.py", "ytrainer_core.training.model"),
        ("ytrainer_core/training/model.py", "ytrainer_core.stages"),
        ("ytrainer_core/errors.py", "ytrainer_core.data"),
        ("ytrainer_core/stages/run.py", "pipelines.local"),
        ("ytrainer_core/stages/run.py", "components.sft"),
        ("ytrainer_core/stages/run.py", "ytrainer_core.cli.main"),
        ("ytrainer_core/stages/run.py", "mlflow"),
        ("ytrainer_core/tracking/store.py", "boto3"),
        ("ytrainer_core/registry/client.py", "boto3"),
        ("ytrainer_core/storage/client.py", "mlflow.artifacts"),
        ("ytrainer_core/storage/download.py", "ytrainer_core.training.model"),
        ("ytrainer_core/registry_tools.py", "mlflow"),
        ("ytrainer_core/cli/main.py", "kfp"),
        ("components/sft/component.py", "pipelines.finetune"),
        ("pipelines/local.py", "mlflow.tracking.MlflowClient"),
        ("ytrainer_core/data/reader.py", ".prepare"),
    ],
)
def test_an_arrow_back_up_is_a_fault(file: str, imported: str) -> None:
    assert fault(file, imported)


@pytest.mark.parametrize(
    ("package", "door"), [(package, door) for package, doors in DOORS.items() for door in doors]
)
def test_every_door_leads_to_its_service(package: str, door: str) -> None:
    sources = (
        (ROOT / file).read_text(encoding="utf-8") for file in files() if file.startswith(door)
    )
    names = [imported for source in sources for _, imported in imports_of(source)]
    assert package in {name.split(".")[0] for name in names}


def test_imports_inside_functions_and_under_type_checking_are_seen() -> None:
    source = (
        "if TYPE_CHECKING:\n    from ytrainer_core.stages import run\n"
        "def f():\n    def g():\n        import mlflow.tracking\n"
    )
    assert list(imports_of(source)) == [(2, "ytrainer_core.stages.run"), (5, "mlflow.tracking")]


def test_every_part_of_the_core_has_a_layer() -> None:
    parts = {Path(file).parts[1].removesuffix(".py") for file in files() if "ytrainer_core" in file}
    assert parts - {"__init__"} == set(LAYER)


def test_no_import_runs_back_up() -> None:
    faults = [
        f"{file}:{line}: imports {imported}: {why}"
        for file in files()
        for line, imported in imports_of((ROOT / file).read_text(encoding="utf-8"))
        if (why := fault(file, imported))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "file", [file for file in files() if file.endswith("/component.py")], ids=lambda f: f
)
def test_a_component_imports_only_kfp_the_image_name_and_inside_its_body_the_stages(
    file: str,
) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    top = {name.split(".")[0] for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
           for _, name in imports_of(ast.unparse(node))}  # fmt: skip
    body = {name for node in tree.body if isinstance(node, ast.FunctionDef)
            for _, name in imports_of(ast.unparse(node))}  # fmt: skip
    assert top <= {"kfp", "typing", "components"}
    assert body <= {"ytrainer_core.stages.run_component", "typing.NamedTuple"}


def test_layers_one_to_three_import_without_kfp_mlflow_and_boto3() -> None:
    program = f"""
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class BareBox(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in {{"kfp", "mlflow", "boto3", "botocore"}}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = BareBox
try:
    import mlflow
except ModuleNotFoundError:
    pass
else:
    sys.exit("the test's own blocking of mlflow does not work")
for part in {BARE!r}:
    module = importlib.import_module(f"ytrainer_core.{{part}}")
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{{module.__name__}}."):
        importlib.import_module(info.name)
print(sum(name.startswith("ytrainer_core.") for name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    expected = [file for file in files() if file.split("/")[1].removesuffix(".py") in BARE]
    assert int(done.stdout) >= len(expected)
