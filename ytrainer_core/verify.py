"""What makes a registered model the trained one: its files, its base, its logits.

registry/ runs this file as a fresh process (`python -m ytrainer_core.verify
models:/NAME/3`, the store in MLFLOW_TRACKING_URI), because a proof must share no
memory with what it proves. The last line on stdout is the answer, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ytrainer_core.config import ModelConfig
from ytrainer_core.errors import CheckpointError, ConfigError, RegistryError, YTrainerError
from ytrainer_core.files import sha256_folder

TRUST_FLAG = "--trust-remote-code"
FORM_TAG = "ytrainer.form"
BASE_TAG = "ytrainer.base"
BASE_REVISION_TAG = "ytrainer.base_revision"
BASE_SHA256_TAG = "ytrainer.base_sha256"
FILES_TAG = "ytrainer.files"

TOLERANCE = 1e-5
"""Largest |logit difference| between the trained and the registered model on one kind of device.
Measured: exactly 0 for adapters and full models of five architectures, float32 and bfloat16."""
MERGED_TOLERANCE = 1e-4
"""The same between an adapter on its base and the merged float32 model: (W + BA)x is not rounded as
Wx + B(Ax) is. Measured on two-layer models: up to 4e-6."""
OTHER_DEVICE_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""Relative to the largest |logit|, by dtype: on another device than the training's, or merged in
half precision. Wide, because only the digests of the files count to the last bit there."""

_MLFLOW_WRITES = {"registered_model_meta"}  # put into the folder by MLflow when it downloads


@dataclass(frozen=True, slots=True)
class Verification:
    """What a proof found. files: number of files whose digests were compared."""

    uri: str
    max_delta: float
    tolerance: float
    files: int
    base_sha256: str


def check_files(uri: str, tags: Mapping[str, str], folder: Path) -> None:
    """Raise RegistryError naming every file that is not the one that was registered."""
    if FILES_TAG not in tags:
        raise RegistryError(
            f"{uri}: was not registered by ytrainer (it has no tag {FILES_TAG}). Register the "
            "trained folder with `ytrainer registry register`."
        )
    registered: dict[str, str] = json.loads(tags[FILES_TAG])
    found = sha256_folder(folder)
    for name in _MLFLOW_WRITES:
        found.pop(name, None)
    faults = []
    for name in sorted(registered.keys() | found.keys()):
        if name not in found:
            faults.append(f"{uri}: {name} is missing from {folder}. Register the model again.")
        elif name not in registered:
            faults.append(f"{uri}: {name} in {folder} was not registered. Remove it.")
        elif found[name] != registered[name]:
            faults.append(
                f"{uri}: {name} in {folder} was changed or damaged after it was registered "
                f"(sha256 {found[name][:12]}…, registered {registered[name][:12]}…). Restore it, "
                "or register the model again."
            )
    if faults:
        raise RegistryError(*faults)


def checked_base(uri: str, tags: Mapping[str, str], base_path: str) -> Path | None:
    """Folder of the base that an adapter was trained on, digest compared; None for full models."""
    from ytrainer_core.training.model import BASE_PATH_VARIABLE, base_digest

    if tags.get(FORM_TAG) != "adapter":
        return None
    base = find_base(tags[BASE_TAG], tags.get(BASE_REVISION_TAG, ""), base_path)
    try:
        digest = base_digest(base)
    except CheckpointError as error:
        raise RegistryError(f"{uri}: its base cannot be read. {error}") from error
    if digest != tags[BASE_SHA256_TAG]:
        raise RegistryError(
            f"{uri}: {base} is not the base model that it was trained on (sha256 {digest[:12]}…, "
            f"registered {tags[BASE_SHA256_TAG][:12]}…). Set {BASE_PATH_VARIABLE} to the folder "
            "of the original base."
        )
    return base


def find_base(name: str, revision: str, base_path: str = "") -> Path:
    """Where the base model lies now: as told, as recorded, or in the hub cache."""
    from ytrainer_core.training.model import BASE_PATH_VARIABLE, locate

    place = base_path or os.environ.get(BASE_PATH_VARIABLE) or name
    try:
        return locate(ModelConfig(name_or_path=place, revision=revision))
    except ConfigError as error:
        raise RegistryError(
            f"the base model {place} was not found. Set {BASE_PATH_VARIABLE} to the folder where "
            f"it lies now. ({error})"
        ) from error


def compare_probe(model: Any, folder: Path) -> tuple[float, float]:
    """(largest |logit difference| to the trained model, what is allowed) on the stored probe."""
    from safetensors import safe_open

    from ytrainer_core.training.model import PROBE_NAME, device_name, probe_logits, read_card

    with safe_open(folder / PROBE_NAME, framework="pt") as probe:
        trained = probe.get_tensor("logits")  # [rows, positions, vocab]
        now = probe_logits(model, probe.get_tensor("input_ids"))
        trained_on = (probe.metadata() or {}).get("device", "")
    if now.shape != trained.shape:
        raise RegistryError(
            f"{folder}: the probe's logits are {list(trained.shape)}, the registered model gives "
            f"{list(now.shape)}. It is another model, or another version of ytrainer."
        )
    allowed = TOLERANCE
    if trained_on not in ("", device_name(model)):
        allowed = OTHER_DEVICE_TOLERANCE[read_card(folder).dtype] * float(trained.abs().max())
    return float((now - trained).abs().max()), allowed


def main(uri: str, *flags: str) -> int:
    """Print the Verification, or {"error": [...]}; returns the exit code."""
    from ytrainer_core.registry import verify

    try:
        print(json.dumps(asdict(verify(uri, trust_remote_code=TRUST_FLAG in flags))))
    except YTrainerError as error:
        print(json.dumps({"error": error.faults}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
