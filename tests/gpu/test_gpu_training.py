"""On a GPU: packed rows are isolated, the loss is that of full logits, nothing asks the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core.config import LoraConfig, ObjectiveConfig
from ytrainer_core.data.packing import collate_packs
from ytrainer_core.objectives.attach import attach_objective
from ytrainer_core.training.documents import packed_attention
from ytrainer_core.training.engine import train
from ytrainer_core.training.model import add_lora

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Make = Callable[..., Any]
LENGTHS = [9, 14, 5, 11, 7]


def on_gpu(batch: dict[str, Any]) -> dict[str, Any]:
    batch = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    del batch["real_tokens"]
    return batch


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_packed_and_unpacked_rows_have_the_same_token_losses(
    dtype: torch.dtype, tolerance: float, make_model: Make, make_rows: Make
) -> None:
    """float32 goes document by document, bfloat16 through torch's variable-length kernel."""
    model, rows = make_model().cuda().to(dtype), make_rows(LENGTHS)
    with packed_attention(model, "auto") as told:
        assert told
        attach_objective(model, ObjectiveConfig(name="cross_entropy"))
        packed = model(**on_gpu(collate_packs([rows], 0, documents=True))).nll
        alone = [model(**on_gpu(collate_packs([[row]], 0, documents=True))).nll for row in rows]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=tolerance, atol=tolerance)


def test_a_forward_and_its_backward_never_wait_for_the_host(
    make_model: Make, make_rows: Make
) -> None:
    model = add_lora(make_model().cuda().bfloat16(), LoraConfig(rank=4)).train()
    with packed_attention(model, "auto"):
        attach_objective(model, ObjectiveConfig(name="nlirg"))
        batch = on_gpu(collate_packs([make_rows(LENGTHS)], 0, documents=True))
        model(**batch).loss.backward()  # kernels are compiled and chosen once
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(**batch).loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["nlirg", "cross_entropy", "eaft"])
def test_training_lowers_the_loss(
    name: str, make_model: Make, make_rows: Make, make_job: Make, tokenizer: Any, tmp_path: Path
) -> None:
    result = train(
        make_model(initializer_range=0.02).cuda(),
        tokenizer,
        make_rows([20] * 4),
        make_job(objective={"name": name}, num_train_epochs=8, optim={"learning_rate": 1e-2}),
        checkpoints=tmp_path,
        log=lambda metrics, step: None,
    )
    losses = [row["nll"] for row in result.history if "nll" in row]
    assert losses[-1] < losses[0] - 0.1
