"""A head whose weights are gathered only around its call is trained as if they were whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_head_sharded_by_fsdp_gets_the_gradients_of_a_whole_one_with_adapters_and_without(
    tmp_path: Path,
) -> None:
    """In a process of its own: a process group outlives the test that made it."""
    script = Path(__file__).with_name("sharded_example.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("differences")]
    assert all(float(number) < 1e-6 for number in line.split()[1:])
