"""Attention that stays within each document of a pack, without a mask.

transformers isolates packed documents by a dense [seq, seq] mask, and only where no
attention mask and no cache are given. Here a document's queries meet the document's keys
and nothing else: one variable-length kernel on a GPU, one call a document on a CPU. The
work falls from seq squared to the sum of the documents' squares, and no mask can leak.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ytrainer_core.data.packing import IGNORED, collate_packs
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives.attach import causal_lm

DOCUMENTS = "ytrainer_documents"
"""Name of the attention in transformers' registry."""

_TOLD_BOUNDS = ("flash_attention_2", "flash_attention_3", "flash_attention_4", DOCUMENTS)
"""Attention that reads cu_seq_lens, so that packs need no padding."""


def document_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention in transformers' calling convention.

    query: [1, heads, seq, width]; key, value: [1, kv heads, seq, width]; cu_seq_lens_q:
    [documents + 1], where each document begins, ending with seq. Returns [1, seq, heads,
    width]. Without bounds it is transformers' sdpa, so that generation works as before.
    """
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        kwargs |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    if query.is_cuda and query.dtype != torch.float32:
        assert max_length_q is not None
        attend = _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
        return attend, None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # repeated once for all documents
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    lengths = cu_seq_lens_q.diff().tolist()
    parts = []
    split = (torch.split(x, lengths, dim=2) for x in (query, key, value))
    for q, k, v in zip(*split, strict=True):
        length = q.shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            distance = torch.arange(length, device=q.device)
            distance = distance[:, None] - distance
            mask = (distance >= 0) & (distance < sliding_window)
        parts.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """torch's variable-length flash attention (GPU, 16 bit); shapes as in document_attention."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"scale": scaling}
    if "window_size" in known:
        options["window_size"] = (sliding_window - 1 if sliding_window else -1, 0)
    else:  # torch before 2.12
        options["is_causal"] = True
        assert sliding_window is None, "check_isolation refuses windows that torch does not know"
    if "enable_gqa" in known:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    else:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]
    attend: Any = varlen_attn
    output: Tensor = attend(*flat, bounds, bounds, longest, longest, **options)
    return output[None]


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(DOCUMENTS, document_attention)
    AttentionMaskInterface.register(DOCUMENTS, sdpa_mask)  # for calls without bounds


@contextlib.contextmanager
def packed_attention(model: Any, wanted: str) -> Iterator[bool]:
    """Give a model the attention of its packs; yields whether batches come without padding.

    wanted: model.attn_implementation; auto takes document attention where the model can, and
    what it has otherwise. The model has its own attention again afterwards.
    """
    inner = causal_lm(model)
    before = inner.config._attn_implementation
    capped = getattr(inner.config.get_text_config(), "attn_logit_softcapping", None)
    if wanted == "auto" and before == "sdpa" and not capped:
        _register()
        inner.set_attn_implementation(DOCUMENTS)
    try:
        yield inner.config._attn_implementation in _TOLD_BOUNDS
    finally:
        inner.set_attn_implementation(before)


def bounds_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the layers below need of a batch: where tokens and documents stand."""
    names = ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    return {name: batch[name] for name in names if name in batch}


@torch.no_grad()
def check_isolation(model: Any, *, flat: bool) -> None:
    """Refuse to pack for a model whose layers carry something from one document to the next.

    Two short documents must have the same hidden states together as the second has alone
    (recurrent layers keep a state that position_ids do not reset).
    """
    inner = causal_lm(model)
    if any(p.is_meta or hasattr(p, "ds_id") for p in inner.parameters()):
        return  # not there, or split over processes: nothing can be computed here
    was_training = inner.training
    inner.eval()
    size = inner.config.get_text_config().vocab_size
    documents = [[(7 * i + 3 * j) % size for j in range(5 + i)] for i in range(2)]

    def last_hidden(pack: list[list[int]]) -> Tensor:
        batch = collate_packs(
            [[{"input_ids": ids, "labels": [IGNORED] * len(ids)} for ids in pack]],
            0,
            documents=flat,
        )
        batch = {
            k: v.to(inner.device) if isinstance(v, Tensor) else v
            for k, v in bounds_inputs(batch).items() | {"input_ids": batch["input_ids"]}.items()
        }
        hidden = inner.get_decoder()(attention_mask=None, use_cache=False, **batch)
        return hidden.last_hidden_state[0, -len(pack[-1]) :].float()  # type: ignore[no-any-return]

    packed, alone = last_hidden(documents), last_hidden(documents[1:])
    inner.train(was_training)
    # 16 bit rounds differently in kernels of other shapes; a leak moves whole units
    tolerance = 1e-3 if inner.dtype == torch.float32 else 0.1
    # a model of NaN is the loss check's to name
    if not torch.allclose(packed, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ConfigError(
            f"{inner.config.model_type} carries state from one packed document into the next, so "
            "packing would train it on mixtures. Set train.batching=length_grouped."
        )
