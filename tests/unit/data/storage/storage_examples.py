"""What the storage's tests move and look at: noise, files on the disk, uploads in a bucket."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

MIB = 1 << 20
PART = 256 << 10
"""Part of an upload in these tests; S3 itself wants 5 MiB."""

SECRET = "wJalrXUtnFEMI-this-is-the-secret"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def uploads_begun(bucket: Any) -> int:
    return len(list(bucket.multipart_uploads.all()))
