"""One case of the SFT benchmark, alone in its process: train once, report time and memory.

python -m benchmarks.sft_case --case '{"system": "trl", ...}'     as benchmarks.sft starts it
"""

from __future__ import annotations

import gc
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.corpus import Row, count, load_rows, load_tokenizer, new_model, prepare
from benchmarks.measure import BenchmarkError, Case, Figures

LORA_RANK, LORA_ALPHA = 16, 32
LEARNING_RATE = 1e-3
LOG_STEPS = 1

LONGEST = 512
"""Longest row in tokens; the corpus has no longer one at this vocabulary."""


def measure_case(case: Case) -> Figures:
    """Train once as the case says. Returns seconds, tokens, memory (bytes), losses (nats)."""
    if case["system"] == "prepare":
        return _prepare(case)
    import torch

    train = {"trl": train_with_trl, "ytrainer": train_with_ytrainer}[case["system"]]
    folder = Path(case["folder"])
    tokenizer, rows = load_tokenizer(folder), load_rows(folder, "train")[: case["rows"]]
    model = new_model(case["shape"], case["vocabulary"], bf16=case.get("bf16", False))
    body = model.get_decoder()
    parameters = sum(p.numel() for p in body.parameters()) - body.embed_tokens.weight.numel()
    if case["method"] == "lora":
        from ytrainer_core.config import LoraConfig
        from ytrainer_core.training.model import add_lora

        model = add_lora(model, LoraConfig(rank=LORA_RANK, alpha=LORA_ALPHA))
    with tempfile.TemporaryDirectory() as scratch:
        if case.get("warm_rows"):
            train(model, tokenizer, rows[: case["warm_rows"]], case, Path(scratch) / "warm")
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        baseline, _ = measure.resident_bytes()
        figures = train(model, tokenizer, rows, case, Path(scratch) / "measured")
    tokens, targets = count(rows)
    if figures.pop("tokens") != tokens:
        raise BenchmarkError(f"{case['name']}: not every token of the corpus was trained once")
    _, peak = measure.resident_bytes()
    figures |= {
        "tokens_per_second": tokens / figures["seconds"],
        "peak": peak,
        "above": peak - baseline,
        "body_parameters": parameters,
    }
    if torch.cuda.is_available():
        figures |= {
            "gpu_peak": torch.cuda.max_memory_allocated(),
            "mfu": _mfu(model, rows, targets, figures["seconds"]),
        }
    return figures


def _prepare(case: Case) -> Figures:
    import torch

    folder = Path(case["folder"])
    prepare(folder, Path(case["data"]), rows=case["rows"], held_out=0, longest=LONGEST)
    tokens, targets = count(load_rows(folder, "train"))
    return {"cuda": torch.cuda.is_available(), "tokens": tokens, "targets": targets}


def train_with_ytrainer(
    model: Any, tokenizer: Any, rows: Sequence[Row], case: Case, folder: Path
) -> Figures:
    """One epoch by ytrainer's engine."""
    import torch

    from ytrainer_core.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
    from ytrainer_core.training.engine import train
    from ytrainer_core.training.job import TrainJob

    job = TrainJob(
        DataConfig(max_length=LONGEST),
        ObjectiveConfig(name="cross_entropy"),
        OptimConfig(learning_rate=LEARNING_RATE, lr_scheduler="constant", warmup_ratio=0.0),
        TrainConfig(
            num_train_epochs=1,
            pack_length=case["pack_length"],
            per_device_batch_size=case["batch"],
            gradient_accumulation_steps=case["accumulation"],
            logging_steps=LOG_STEPS,
            save_steps=0,
        ),
        seed=0,
        dtype=torch.bfloat16 if case.get("bf16") else torch.float32,
    )
    result = train(model, tokenizer, rows, job, checkpoints=folder, log=lambda metrics, step: None)
    return _trained(result.seconds, result.tokens, result.history)


def train_with_trl(
    model: Any, tokenizer: Any, rows: Sequence[Row], case: Case, folder: Path
) -> Figures:
    """One epoch by TRL's SFTTrainer."""
    import datasets
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    on_gpu = model.device.type == "cuda"
    if on_gpu and importlib.util.find_spec("flash_attn"):
        model.set_attn_implementation("flash_attention_2")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            max_length=case["pack_length"] or LONGEST,
            packing=bool(case["pack_length"]),
            packing_strategy="bfd",
            per_device_train_batch_size=case["batch"],
            gradient_accumulation_steps=case["accumulation"],
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            use_liger_kernel=case.get("liger", False),
            bf16=case.get("bf16", False),
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            logging_steps=LOG_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    started = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - started
    return _trained(seconds, int(trainer._total_train_tokens), trainer.state.log_history)


def _trained(seconds: float, tokens: int, history: Sequence[dict[str, float]]) -> Figures:
    losses = [row["loss"] for row in history if "loss" in row] or [float("nan")]
    return {
        "seconds": seconds,
        "tokens": tokens,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def _mfu(model: Any, rows: Sequence[Row], targets: int, seconds: float) -> float:
    import torch

    from ytrainer_core.training.flops import Throughput, mfu

    lengths = [len(row["input_ids"]) for row in rows]
    seen = sum(length**2 for length in lengths) / sum(lengths)
    return mfu(model, Throughput(sum(lengths), targets, seconds, seen), torch.bfloat16)


if __name__ == "__main__":
    measure.answer(measure_case)
