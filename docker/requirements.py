"""Print what pyproject.toml asks for, the package itself left out: FILE [EXTRA…].

torch is left out: it is installed before, as the build for CPUs or for CUDA.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Requirements of the package and of some of its extras, sorted.

    Raises SystemExit for an extra that the project does not have.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    unknown = sorted(set(extras) - set(known))
    if unknown:
        raise SystemExit(
            f"EXTRAS: {pyproject} has no extra {', '.join(unknown)}; it has {', '.join(known)}."
        )
    wanted = [*project["dependencies"], *(each for extra in extras for each in known[extra])]
    return sorted({each for each in wanted if not re.match(r"torch(?![\w.-])", each)})


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
