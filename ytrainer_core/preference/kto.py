"""TRL's KTOTrainer with our rows, our losses, our checkpoints and our counts.

Of TRL it takes the loop, the log-probabilities without full logits and the switching of adapters.
What is logged: rewards/chosen and rewards/rejected (beta times the log-ratio), rewards/margins,
logps/chosen and logps/rejected (nats per answer), kl (the reference point, nats per answer).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from trl import KTOTrainer

from ytrainer_core.config import PreferenceConfig
from ytrainer_core.data.packing import IGNORED
from ytrainer_core.errors import YTrainerError
from ytrainer_core.evaluation.preferences import preference_scores
from ytrainer_core.files import write_json
from ytrainer_core.preference import loss as losses
from ytrainer_core.preference.columns import MISMATCHED, Batched, FixedBatches, PreferenceCollator
from ytrainer_core.preference.reference import read_reference, reference_folder, write_reference
from ytrainer_core.preference.sums import Sums
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.optimizer import OptimizerTrainer

COUNTERS_NAME = "ytrainer-counters.json"


@dataclass(frozen=True)
class Preference:
    """What goes into a preference training besides the job.

    weights: of liked and of disliked rows. precomputed: whether the reference's log-probabilities
    are computed before the first step. reference: identity of the untrained model.
    """

    config: PreferenceConfig
    weights: tuple[float, float]
    precomputed: bool
    reference: str


class PreferenceTrainer(OptimizerTrainer, KTOTrainer):  # type: ignore[misc]
    """Trains on fixed batches, in their order, at every epoch."""

    def __init__(
        self,
        *,
        job: TrainJob,
        preference: Preference,
        train: Batched,
        held_out: Batched | None,
        model: Any,
        processing_class: Any,
        **kwargs: Any,
    ) -> None:
        self._job, self._preference = job, preference
        self._sizes = train.sizes
        self._held_out = held_out
        self._sums = Sums(preference.config.beta)
        self._finite: Tensor | None = None
        self._started = time.monotonic()
        self.target_tokens = self.tokens = 0
        self.seconds_before = 0.0
        with _plain_first_values(model):
            super().__init__(
                model=model,
                train_dataset=train.rows,
                eval_dataset=held_out.rows if held_out else None,
                data_collator=PreferenceCollator(
                    processing_class.pad_token_id, job.data.max_length
                ),
                processing_class=processing_class,
                **kwargs,
            )
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")  # it served the log-probabilities that are known now

    # --- what TRL would do otherwise -------------------------------------------------------------

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        made_by = f"{self._preference.reference} {self._job.data.max_length}"
        folder = reference_folder(dataset, made_by)
        found = read_reference(folder)
        if found is None:
            batches = self._held_out if name == "eval" else None
            found = self._reference_of(dataset, batches.sizes if batches else self._sizes)
            write_reference(folder, found)
        for column, values in found.items():
            dataset = dataset.add_column(column, values)
        return dataset

    def _reference_of(self, dataset: Any, sizes: list[int]) -> dict[str, list[list[float]]]:
        """Log-probabilities of all answers, token by token, by the model as it is now."""
        found: dict[str, list[list[float]]] = defaultdict(list)
        for batch in self._batches(dataset, sizes):
            for prefix in _prefixes(batch):
                with torch.no_grad(), self.accelerator.autocast():
                    logps = self._token_logps(self.model, batch, prefix).float()
                mask = batch[f"{prefix}labels"][:, 1:] != IGNORED
                found[f"{prefix}ref_logps"] += [
                    row[kept].tolist() for row, kept in zip(logps, mask, strict=True)
                ]
        return found

    def _batches(self, dataset: Any, sizes: list[int]) -> Iterator[dict[str, Any]]:
        loader = DataLoader(
            dataset, batch_sampler=FixedBatches(sizes), collate_fn=self.data_collator
        )
        for batch in loader:
            yield self._prepare_inputs(batch)

    def get_train_dataloader(self) -> Any:
        """The batches as they were dealt, their sizes included."""
        return self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=FixedBatches(self._sizes),
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )

    # --- the loss --------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        self.tokens += inputs["real_tokens"]
        self.target_tokens += inputs["target_tokens"]
        found = self.row_losses(model, inputs)
        loss = found["loss"].mean() + found.get("auxiliary", 0.0)
        finite = torch.isfinite(loss.detach())
        self._finite = finite if self._finite is None else self._finite & finite
        self._sums.add(found)
        return (loss, None) if return_outputs else loss

    def row_losses(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """loss (weighted) of each row, or of each pair; label, ratio, logps of each row; kl.

        A mixture of experts adds its auxiliary loss.
        """
        config = self._preference.config
        z = torch.zeros((), device=self.args.device)
        if config.loss == "kto":
            with torch.no_grad():
                mismatched, *_ = self._ratios(model, inputs, MISMATCHED)
            z = losses.reference_point(mismatched)
        ratios, logps, auxiliary = self._ratios(model, inputs, "")
        label = inputs["label"].bool()
        if config.loss == "dpo":
            loss = losses.dpo_losses(ratios[label], ratios[~label], config.beta)
        else:
            plain = losses.kto_losses(ratios, label, z, config.beta)  # apo_zero: z is 0
            desirable, undesirable = self._preference.weights
            loss = torch.where(label, desirable, undesirable) * plain
        found = {"loss": loss, "label": label, "ratio": ratios.detach(), "kl": z}
        return (
            found | {"logps": logps} | ({"auxiliary": auxiliary} if self.aux_loss_enabled else {})
        )

    def _ratios(
        self, model: Any, inputs: Mapping[str, Any], prefix: str
    ) -> tuple[Tensor, Tensor, Any]:
        """(log-ratio, the policy's log-probability of the answer, auxiliary loss); [rows] each."""
        if self._preference.precomputed:
            reference = inputs[f"{prefix}ref_logps"]
        else:
            inner = self.accelerator.unwrap_model(model)
            with torch.no_grad(), inner.disable_adapter():
                reference = self._token_logps(model, inputs, prefix).float()
        output = self._forward(model, inputs, prefix)
        logps = output.log_probs.float()
        mask = inputs[f"{prefix}labels"][:, 1:] != IGNORED
        ratios = losses.log_ratios(logps, reference, mask, self._preference.config.token_weighting)
        auxiliary = None
        if self.aux_loss_enabled:
            auxiliary = self.router_aux_loss_coef * output.aux_loss
        return ratios, (logps * mask).sum(-1).detach(), auxiliary

    def _token_logps(self, model: Any, inputs: Mapping[str, Any], prefix: str) -> Tensor:
        logps: Tensor = self._forward(model, inputs, prefix).log_probs
        return logps

    def _forward(self, model: Any, inputs: Mapping[str, Any], prefix: str) -> Any:
        """log_probs: [rows, tokens - 1], in nats, 0 outside of the answers."""
        routed = {"output_router_logits": True} if getattr(self, "aux_loss_enabled", False) else {}
        return model(
            input_ids=inputs[f"{prefix}input_ids"],
            attention_mask=inputs[f"{prefix}attention_mask"],
            labels=inputs[f"{prefix}labels"],
            use_cache=False,
            fused_lm_head=True,
            **routed,
        )

    # --- what is told ----------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add rewards, log-probabilities and the KL term since the last log.

        Raises YTrainerError where the loss was not finite.
        """
        if "loss" in logs:
            self._check_finite()
            logs.update(self._sums.means())
            self._sums = Sums(self._preference.config.beta)
        super(KTOTrainer, self).log(logs, start_time)

    def _check_finite(self) -> None:
        if self._finite is None or bool(self._finite):
            return
        raise YTrainerError(
            f"the loss is not finite at step {self.state.global_step}. Lower "
            "optim.learning_rate or preference.beta, or compute in float32 (model.dtype=float32)."
        )

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss, rewards and accuracy of the implied reward over the held-out rows.

        eval_accuracy: share of (liked, disliked) pairs of rows in which the liked one has the
        higher reward; for dpo of the pairs as they were given.
        """
        assert self._held_out is not None
        sums = Sums(self._preference.config.beta)
        ratios, labels = [], []
        self.model.eval()
        for batch in self._batches(self.eval_dataset, self._held_out.sizes):
            with self.accelerator.autocast():
                found = self.row_losses(self.model, batch)
            sums.add(found, loss=True)
            ratios.append(found["ratio"].cpu())
            labels.append(found["label"].cpu())
        accuracy = preference_scores(
            torch.cat(ratios).double().numpy(),
            torch.cat(labels).numpy(),
            paired=self._preference.config.loss == "dpo",
        )
        metrics = sums.means() | {"accuracy": accuracy["preference_accuracy"].value}
        metrics = {f"eval_{name}": value for name, value in metrics.items()}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # --- checkpoints -----------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Time since the trainer was made, over all starts."""
        return self.seconds_before + time.monotonic() - self._started

    def totals(self) -> dict[str, int]:
        """Answer tokens and tokens that went through the policy so far, over all starts."""
        return {"target_tokens": self.target_tokens, "tokens": self.tokens}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Also what we counted; never a state that is not finite, and no model card."""
        self._check_finite()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        write_json(folder / COUNTERS_NAME, self.totals() | {"seconds": self.seconds})
        super(KTOTrainer, self)._save_checkpoint(*args, **kwargs)

    def start_from(self, checkpoint: Path) -> None:
        """Continue counting where a checkpoint stopped."""
        counters = json.loads((checkpoint / COUNTERS_NAME).read_text(encoding="utf-8"))
        self.seconds_before = counters["seconds"]
        self.target_tokens, self.tokens = counters["target_tokens"], counters["tokens"]


def _prefixes(batch: Mapping[str, Any]) -> list[str]:
    return [prefix for prefix in ("", MISMATCHED) if f"{prefix}input_ids" in batch]


@contextlib.contextmanager
def _plain_first_values(model: Any) -> Iterator[None]:
    """TRL copies the adapter; with PiSSA making the copy would change the base model's weights."""
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        yield
        return
    before, config.init_lora_weights = config.init_lora_weights, True
    try:
        yield
    finally:
        config.init_lora_weights = before
