"""One case of the scoring benchmark, alone in its process: read the rows once, report time, memory.

python -m benchmarks.scoring_case --case '{"system": "naive", ...}'     as benchmarks.scoring does
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import measure
from benchmarks.corpus import Row, count, load_rows, new_model, prepare
from benchmarks.measure import Case, Figures

LONGEST = 512
"""Longest row in tokens; the corpus has no longer one at this vocabulary."""

WARM_ROWS = 4
"""Rows read before the clock starts: kernels are loaded, and the model is asked what it can."""

Signals = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""nll and entropy, [targets] of all rows, nats."""


def measure_case(case: Case) -> Figures:
    """Read the rows as the case says. Returns seconds, rows and memory (bytes).

    The signals lie in the case's `keep` file, for the systems to be compared.
    """
    if case["system"] == "prepare":
        return _prepare(case)
    import torch

    read = {"naive": naive_signals, "ours": our_signals}[case["system"]]
    rows = load_rows(Path(case["folder"]), "train")[: case["rows"]]
    model = new_model(case["shape"], case["vocabulary"], bf16=case.get("bf16", False)).eval()
    read(model, rows[:WARM_ROWS])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    baseline, _ = measure.resident_bytes()
    started = time.monotonic()
    nll, entropy = read(model, rows)
    seconds = time.monotonic() - started
    _, peak = measure.resident_bytes()
    np.save(case["keep"], np.stack([nll, entropy]))
    figures = {"rows": len(rows), "seconds": seconds, "rows_per_second": len(rows) / seconds}
    figures |= {"peak": peak, "above": peak - baseline, "mean_nll": float(nll.mean())}
    if on_gpu:
        figures["gpu_peak"] = torch.cuda.max_memory_allocated()
    return figures


def _prepare(case: Case) -> Figures:
    import torch

    folder = Path(case["folder"])
    prepare(folder, Path(case["data"]), rows=case["rows"], held_out=0, longest=LONGEST)
    tokens, targets = count(load_rows(folder, "train"))
    return {"cuda": torch.cuda.is_available(), "tokens": tokens, "targets": targets}


def naive_signals(model: Any, rows: Sequence[Row]) -> Signals:
    """Two forward passes a row, all positions through the head, full distributions in float32."""
    nll = np.concatenate([_naive(model, row, _naive_nll) for row in rows])
    return nll, np.concatenate([_naive(model, row, _naive_entropy) for row in rows])


def _naive(model: Any, row: Row, signal: Any) -> npt.NDArray[np.float32]:
    import torch

    input_ids = torch.tensor([row["input_ids"]], device=model.device)
    labels = torch.tensor(row["labels"], device=model.device)[1:]
    with torch.no_grad():
        logits = model(input_ids=input_ids).logits[0, :-1].float()
        found: npt.NDArray[np.float32] = signal(logits, labels)[labels != -100].cpu().numpy()
    return found


def _naive_nll(logits: Any, labels: Any) -> Any:
    log_probs = logits.log_softmax(dim=-1)
    return -log_probs.gather(1, labels.clamp(min=0)[:, None]).squeeze(1)


def _naive_entropy(logits: Any, labels: Any) -> Any:
    log_probs = logits.log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def our_signals(model: Any, rows: Sequence[Row]) -> Signals:
    """One forward pass, which also gives rank, expected token and its probability."""
    from ytrainer_core.scoring.signals import token_signals

    found = token_signals(model, rows, ranks=True)
    return tuple(np.concatenate([getattr(row, n) for row in found]) for n in ("nll", "entropy"))  # type: ignore[return-value]


if __name__ == "__main__":
    measure.answer(measure_case)
