"""Tiny real models for the registry's tests, in the folders that training writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ytrainer_core import __version__
from ytrainer_core.training.model import BaseReference, ModelCard, base_digest, save_trained

PROOF = "ytrainer_core.registry.register._prove"
"""What a test replaces where a fresh process would prove nothing more."""
GATE_PASSED = {"ytrainer.gate": "passed", "ytrainer.metric.eval_loss": "1.5"}

VOCAB = 300
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the three markers of the chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    markers = ["<|system|>", "<|user|>", "<|assistant|>"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": markers})
    fast.pad_token = fast.eos_token
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_base(folder: Path, seed: int = 0) -> Path:
    """A two-layer Qwen3 with random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path) -> Path:
    """An adapter 'trained' on the base: every LoRA weight is random, none is zero."""
    model: Any = get_peft_model(
        Qwen3ForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    save_trained(model.eval(), byte_tokenizer(), folder, card(base, "adapter"), probe_ids())
    return folder


def save_large(folder: Path, base: Path) -> Path:
    """A full model of about 100 MB with random weights; its card names the base all the same."""
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=128,
    )
    model = Qwen3ForCausalLM(config)
    save_trained(model.eval(), byte_tokenizer(), folder, card(base, "full"), probe_ids())
    return folder


def save_full(folder: Path, base: Path) -> Path:
    """A full model: the base with every weight moved."""
    model = Qwen3ForCausalLM.from_pretrained(base)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save_trained(model.eval(), byte_tokenizer(), folder, card(base, "full"), probe_ids())
    return folder


def card(base: Path, kind: str) -> ModelCard:
    return ModelCard(
        kind=kind,
        base=BaseReference(str(base), "", base_digest(base)),
        dtype="float32",
        data_sha256="d" * 64,
        run_id="",
        ytrainer_version=__version__,
        config={"data": {"system_prompt": "Be {brief}."}},
    )


def probe_ids() -> torch.Tensor:
    return torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(3))
