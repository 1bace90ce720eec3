"""Losses of one batch by three ways: ytrainer's trainer, TRL's, and the formulas in plain Python.

The formulas are those of arXiv 2402.01306 (KTO, eq. 7), 2408.06266 (APO-zero, eq. 7) and 2305.18290
(DPO, eq. 7); the way by hand starts at the logits of a plain forward pass and takes from there no
function of torch or of ytrainer.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Case, Figures

if TYPE_CHECKING:
    from ytrainer_core.preference.columns import Batched
    from ytrainer_core.preference.rows import PreferenceRow

LOSSES = {
    "kto": ("kto", "none"),
    "kto, nlirg": ("kto", "nlirg"),
    "apo_zero_unpaired": ("apo_zero_unpaired", "none"),
    "dpo": ("dpo", "none"),
}
"""Name -> loss and token weighting; TRL has no weighting."""

BETA = 0.3
WEIGHTS = (1.5, 0.7)
"""Of liked and of disliked rows; DPO has none."""

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.2,
}
"""Fields of ArchitectureConfig. Weights are ten times larger than usual, so that answers differ."""

ROWS = 4
"""Of a batch; with DPO its two answers each count."""

PERTURBATION = 0.05
"""Standard deviation of what is added to the LoRA, so that policy and reference differ."""

_LEARNABLE = ((1.7, 1.2), 3.0, (1.0, 6.2), 15.0)
"""NLIRG: slope and midpoint of the easy arm, up to where it goes, the hard arm, the cutoff."""


def measure_loss(case: Case) -> Figures:
    """Loss -> greatest absolute differences over the case's batches, and the mean loss.

    trl: of batch losses, None where TRL has no such loss. hand: of row losses, by hand.
    """
    import torch

    torch.set_num_threads(1)
    return {
        name: compare(loss, weighting, case["batches"])
        for name, (loss, weighting) in LOSSES.items()
    }


def compare(loss: str, weighting: str, batches: int) -> Figures:
    """The three ways on random rows."""
    model, tokenizer = moved_model()
    rows = random_rows(ROWS * batches, pairs=loss == "dpo")
    order = [list(range(start, start + ROWS)) for start in range(0, len(rows), ROWS)]
    with tempfile.TemporaryDirectory() as scratch:
        dealt = _dealt(rows, order, loss)
        ours = our_losses(model, tokenizer, dealt, loss, weighting, Path(scratch))
        theirs = None
        if weighting == "none":
            batch_losses = trl_dpo if loss == "dpo" else trl_kto
            theirs = batch_losses(model, tokenizer, dealt, loss, Path(scratch))
    hand = [by_hand(model, [rows[i] for i in batch], loss, weighting) for batch in order]
    means = [sum(batch) / len(batch) for batch in ours]
    return {
        "loss": sum(means) / len(means),
        "trl": theirs and max(abs(a - b) for a, b in zip(means, theirs, strict=True)),
        "hand": max(
            abs(a - b)
            for batch, other in zip(ours, hand, strict=True)
            for a, b in zip(batch, other, strict=True)
        ),
    }


def moved_model() -> tuple[Any, Any]:
    """(tiny model with a LoRA that is not nothing, tokenizer)."""
    import torch

    from ytrainer_core.config import ArchitectureConfig, LoraConfig
    from ytrainer_core.training.model import add_lora
    from ytrainer_core.training.scratch import new_model, train_tokenizer

    shape = ArchitectureConfig.model_validate(SHAPE)
    tokenizer = train_tokenizer(["Liked answers and answers that are not."] * 9, shape)
    torch.manual_seed(0)
    model = add_lora(new_model(shape, tokenizer, 0).cpu(), LoraConfig(rank=4))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += PERTURBATION * torch.randn(weight.shape)
    return model, tokenizer


def random_rows(number: int, *, pairs: bool) -> list[PreferenceRow]:
    """Random tokens, liked and disliked by turns; of pairs both with the prompt of the first."""
    import random

    from ytrainer_core.preference.rows import PreferenceRow

    rng = random.Random(0)

    def ids(length: int) -> list[int]:
        return [rng.randrange(3, 250) for _ in range(length)]

    prompts = [ids(4 + i % 3) for i in range(number)]
    return [
        PreferenceRow(f"random:{i}", prompts[i - i % 2 if pairs else i], ids(3 + i % 4), i % 2 == 0)
        for i in range(number)
    ]


def _dealt(rows: Sequence[PreferenceRow], order: Sequence[Sequence[int]], loss: str) -> Batched:
    from ytrainer_core.preference.columns import batched

    return batched(rows, order, kl=loss == "kto")


def our_losses(
    model: Any, tokenizer: Any, dealt: Batched, loss: str, weighting: str, folder: Path
) -> list[list[float]]:
    """Weighted losses of the rows (dpo: pairs) of each batch by ytrainer's trainer."""
    from ytrainer_core.config import DataConfig, ObjectiveConfig, OptimConfig, TrainConfig
    from ytrainer_core.config import PreferenceConfig as Config
    from ytrainer_core.preference.engine import trl_arguments
    from ytrainer_core.preference.kto import Preference, PreferenceTrainer
    from ytrainer_core.training.job import TrainJob

    config = Config.model_validate(
        {
            "loss": loss,
            "beta": BETA,
            "token_weighting": weighting,
            "batch_size": ROWS // 2 if loss == "dpo" else ROWS,
        }
    )
    job = TrainJob(DataConfig(), ObjectiveConfig(), OptimConfig(), TrainConfig(save_steps=0), 0)
    preference = Preference(config, WEIGHTS, False, "")
    trainer = PreferenceTrainer(
        job=job,
        preference=preference,
        train=dealt,
        held_out=None,
        model=model,
        args=trl_arguments(job, preference, folder / "ours"),
        processing_class=tokenizer,
    )
    return [
        trainer.row_losses(model, batch)["loss"].tolist()
        for batch in trainer.get_train_dataloader()
    ]


def tokenized(trainer: Any) -> Any:
    """A trainer of TRL's for rows that are tokenized already; all else is TRL's."""
    return type(
        trainer.__name__, (trainer,), {"_prepare_dataset": lambda self, dataset, *rest: dataset}
    )


def trl_kto(model: Any, tokenizer: Any, dealt: Batched, loss: str, folder: Path) -> list[float]:
    """Loss of each batch by TRL's KTOTrainer; the reference is the model without its LoRA."""
    from trl import KTOConfig, KTOTrainer

    trainer = tokenized(KTOTrainer)(
        model=model,
        ref_model=_reference(),
        args=KTOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=ROWS,
            loss_type=loss,
            desirable_weight=WEIGHTS[0],
            undesirable_weight=WEIGHTS[1],
            **_plain_arguments(),
        ),
        train_dataset=dealt.rows,
        processing_class=tokenizer,
    )
    batches = trainer.get_train_dataloader()
    return [trainer.compute_loss(trainer.model, batch).item() for batch in batches]


def trl_dpo(model: Any, tokenizer: Any, dealt: Batched, loss: str, folder: Path) -> list[float]:
    """The same by TRL's DPOTrainer."""
    import datasets
    from trl import DPOConfig, DPOTrainer

    chosen, rejected = dealt.rows[::2], dealt.rows[1::2]
    pairs = {
        "prompt_ids": chosen["prompt_ids"],
        "chosen_ids": chosen["completion_ids"],
        "rejected_ids": rejected["completion_ids"],
    }
    trainer = tokenized(DPOTrainer)(
        model=model,
        ref_model=_reference(),
        args=DPOConfig(output_dir=str(folder / "trl"), **_plain_arguments()),
        train_dataset=datasets.Dataset.from_dict(pairs),
        processing_class=tokenizer,
    )
    rows = [dict(row) for row in trainer.train_dataset]
    batches = [rows[start : start + ROWS // 2] for start in range(0, len(rows), ROWS // 2)]
    return [trainer.compute_loss(trainer.model, trainer.data_collator(b)).item() for b in batches]


def _plain_arguments() -> dict[str, Any]:
    return {
        "beta": BETA,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "report_to": "none",
    }


def _reference() -> Any:
    model, _ = moved_model()
    return model.unload()


def by_hand(
    model: Any, rows: Sequence[PreferenceRow], loss: str, weighting: str = "none"
) -> list[float]:
    """Weighted losses of the rows (dpo: pairs) of a batch, in Python's floats."""

    def ratio(prompt: Sequence[int], answer: Sequence[int]) -> float:
        policy = log_probabilities(model, prompt, answer)
        with model.disable_adapter():
            reference = log_probabilities(model, prompt, answer)
        weights = [learnability(-p) if weighting == "nlirg" else 1.0 for p in policy]
        return sum(w * (p - r) for w, p, r in zip(weights, policy, reference, strict=True))

    r = [ratio(row.prompt_ids, row.completion_ids) for row in rows]
    if loss == "dpo":
        return [-math.log(sigmoid(BETA * (r[i] - r[i + 1]))) for i in range(0, len(r), 2)]
    z = 0.0
    if loss == "kto":
        others = [rows[i - 1].completion_ids for i in range(len(rows))]
        mismatched = [
            ratio(row.prompt_ids, answer) for row, answer in zip(rows, others, strict=True)
        ]
        z = max(0.0, sum(mismatched) / len(mismatched))
    return [
        WEIGHTS[0] * (1 - sigmoid(BETA * (one - z)))
        if row.label
        else WEIGHTS[1] * (1 - sigmoid(BETA * (z - one)))
        for row, one in zip(rows, r, strict=True)
    ]


def log_probabilities(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Of each token of the answer, in nats, from the logits of one row without padding."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].tolist()
    found = []
    for before, token in enumerate(answer, start=len(prompt) - 1):
        greatest = max(logits[before])
        total = sum(math.exp(value - greatest) for value in logits[before])
        found.append(logits[before][token] - greatest - math.log(total))
    return found


def sigmoid(x: float) -> float:
    """The logistic function."""
    return 1 / (1 + math.exp(-x))


def learnability(nll: float) -> float:
    """NLIRG's weight of a token, published form."""
    (slope, middle), boundary, (hard_slope, hard_middle), cutoff = _LEARNABLE
    if nll >= cutoff:
        return 0.0
    if nll <= boundary:
        return sigmoid(slope * (nll - middle))
    return sigmoid(hard_slope * (hard_middle - nll))
