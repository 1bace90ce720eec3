"""Answers by batched generation with a KV cache, left-padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.progress import Progress
from ytrainer_core.scoring.forward import length_batches


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end an answer: what the model says of itself, and what templates use."""
    own = causal_lm(model).generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    for name in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"):
        token = tokenizer.convert_tokens_to_ids(name)
        if token is not None and token != tokenizer.unk_token_id:
            ends.add(token)
    return sorted(token for token in ends if token is not None)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    temperature: float = 0.0,
) -> list[str]:
    """Answer every prompt (token ids), greedily where temperature is 0.

    Returns the decoded answers in the order of `prompts`, special tokens removed.
    """
    was_training = model.training
    model.eval()
    device = causal_lm(model).device
    answers = [""] * len(prompts)
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    sampling = {"do_sample": temperature > 0, "temperature": temperature or None}
    with Progress("generation", len(prompts)) as progress:
        for batch in length_batches(lengths, batch_tokens):
            width = max(len(prompts[i]) for i in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            mask = torch.zeros((len(batch), width), dtype=torch.long)
            for at, i in enumerate(batch):
                ids[at, width - len(prompts[i]) :] = torch.as_tensor(prompts[i])
                mask[at, width - len(prompts[i]) :] = 1
            output = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_tokens(model, tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                top_p=None,
                top_k=None,
                **sampling,
            )
            for i, row in zip(batch, output, strict=True):
                answers[i] = tokenizer.decode(row[width:], skip_special_tokens=True)
            progress.advance(len(batch))
    model.train(was_training)
    return answers
