"""Claim: `ytrainer show` tells a training's peak memory within 20 % before it runs.

    python -m benchmarks.memory

Three shapes whose memory lies in three places: all weights trained (optimizer and activations),
LoRA (activations), and a vocabulary of 151,936 (the head's gradient). Each is told by
`ytrainer show --no-probe` in one process and trained by `ytrainer sft` in another; measured is the
greatest resident memory of the second (ru_maxrss). It is also compared without what a process
holds before any training: Python, torch, transformers, datasets.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import MIB, Figures

MODULE = "benchmarks.memory"
GIB = 2**30
ROW_TOKENS = 500
PROMISED, PROMISED_ABOVE = 0.20, 0.25
"""Greatest error of the peak, and of what it is above the process without a training."""

_SHARED = {"head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "full": {
        "model": _SHARED
        | {
            "vocab_size": 2048,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
        },
        "rank": 0,
    },
    "LoRA": {
        "model": _SHARED
        | {
            "vocab_size": 2048,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
        },
        "rank": 16,
    },
    "vocabulary of 151,936": {
        "model": _SHARED
        | {
            "vocab_size": 151936,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 2,
        },
        "rank": 0,
    },
}
"""Name -> Qwen3 dimensions and rank of the adapters (0 trains every weight)."""

CONFIG = """
model: {{name_or_path: {base}, dtype: float32}}
data: {{train: {folder}/train.jsonl, validation: {folder}/validation.jsonl, max_length: 512}}
lora: {{rank: {rank}}}
train: {{max_steps: 3, gradient_accumulation_steps: 2, save_steps: 0, resume: never}}
tracking: {{enabled: false}}
output_dir: {folder}/out
"""


def prepare(case: Mapping[str, Any]) -> Figures:
    """In a process of its own: a base with random weights, a corpus and a config."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from ytrainer_core.config import ArchitectureConfig
    from ytrainer_core.training.scratch import train_tokenizer

    folder = Path(case["folder"])
    base = folder / "base"
    tokenizer = train_tokenizer(["a text"], ArchitectureConfig(vocab_size=300))
    tokenizer.save_pretrained(base)
    special = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
    shape = Qwen3Config(**case["model"], tie_word_embeddings=True, **special)
    Qwen3ForCausalLM(shape).save_pretrained(base)
    for split, count in (("train", 12), ("validation", 1)):
        rows = [{"text": f"{split} {i:03d} ".ljust(ROW_TOKENS, "~")} for i in range(count)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    text = CONFIG.format(folder=folder, base=base, rank=case["rank"])
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return {}


def told(folder: Path, threads: int) -> dict[str, float]:
    """Bytes of every part that `ytrainer show` tells, and their sum as 'peak'."""
    output, _ = _ytrainer("show", "sft", folder, threads, "--no-probe")
    line = next(line for line in output.splitlines() if "peak memory" in line)
    found = re.search(r"([\d.]+) GiB: (.*?)\s*│", line)
    assert found is not None, line
    parts = dict(part.rsplit(" ", 1) for part in found[2].split(" · "))
    return {name: float(size) * GIB for name, size in parts.items()} | {
        "peak": float(found[1]) * GIB
    }


def measured(folder: Path, threads: int) -> float:
    """Greatest resident bytes of `ytrainer sft`."""
    _, peak = _ytrainer("sft", "", folder, threads)
    return peak


def _ytrainer(
    command: str, stage: str, folder: Path, threads: int, *options: str
) -> tuple[str, float]:
    """(stdout, greatest resident bytes) of one command."""
    words = [command, *filter(None, [stage]), str(folder / "config.yaml"), *options]
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(threads)}
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        child = subprocess.Popen(
            [sys.executable, "-c", "from ytrainer_core.cli import main; main()", *words],
            cwd=measure.ROOT,
            env={**os.environ, **quiet, "YTRAINER_HOME": str(folder / "home")},
            stdout=out,
            stderr=err,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if child.returncode:
            raise measure.BenchmarkError(f"{' '.join(words)} failed:\n{err.read()[-2000:]}")
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return out.read(), float(peak)


def compare(name: str, folder: Path, threads: int, repeats: int = 1) -> dict[str, float]:
    """Estimate and median measurement of one shape, in bytes; errors as shares of the latter."""
    folder.mkdir(parents=True)
    case = {"name": f"{name}, prepare", "folder": str(folder), **SHAPES[name]}
    measure.run_case(MODULE, case, threads)
    estimate = told(folder, threads)
    found = []
    for number in range(repeats):
        if number:
            (folder / "out").rename(folder / f"out-{number}")
        found.append(measured(folder, threads))
    peak, process = statistics.median(found), estimate["process"]
    return {
        "estimated": estimate["peak"],
        "measured": peak,
        "error": estimate["peak"] / peak - 1,
        "estimated_above": estimate["peak"] - process,
        "measured_above": peak - process,
        "error_above": (estimate["peak"] - process) / (peak - process) - 1,
    }


def main() -> None:
    """Run the shapes one after the other and print the table."""
    if "--case" in sys.argv:
        measure.answer(prepare)
        return
    arguments = measure.parser(__doc__ or "", repeats=1).parse_args()
    rows, missed = [], False
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(SHAPES):
            found = compare(name, Path(scratch) / str(number), arguments.threads, arguments.repeats)
            missed |= abs(found["error"]) > PROMISED or abs(found["error_above"]) > PROMISED_ABOVE
            sizes = ("estimated", "measured", "estimated_above", "measured_above")
            told_sizes = [f"{found[size] / MIB:,.0f}" for size in sizes]
            rows.append(
                [
                    name,
                    *told_sizes[:2],
                    f"{found['error']:+.1%}",
                    *told_sizes[2:],
                    f"{found['error_above']:+.1%}",
                ]
            )
    head = ["shape", "told, MiB", "measured", "error", "told, above process", "measured", "error"]
    print(measure.table(["", ""], measure.machine(arguments.threads)))
    print()
    print(measure.table(head, rows))
    if missed:
        raise measure.BenchmarkError(
            f"an error is above {PROMISED:.0%} (above the process: {PROMISED_ABOVE:.0%})"
        )


if __name__ == "__main__":
    main()
