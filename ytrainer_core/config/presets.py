"""Sizes of models trained from scratch: each name is the parameter count of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["", "2m", "26m", "110m", "360m", "600m"]


@dataclass(frozen=True)
class Preset:
    """A Qwen3 shape.

    parameters: weights of the whole model, shared embeddings once, with a tokenizer that
    fills vocab_size (a small corpus may give fewer entries).
    """

    description: str
    parameters: int
    shape: dict[str, int | float | bool]


PRESETS: dict[str, Preset] = {
    "2m": Preset(
        "A few minutes on a laptop's CPU; learns the few phrases of a small generated corpus.",
        2_017_344,
        {
            "vocab_size": 2048,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "max_position_embeddings": 2048,
            "rope_theta": 1e4,
        },
    ),
    "26m": Preset(
        "20 tokens a parameter are 0.5 billion: half an hour at 50 TFLOP/s, a consumer GPU.",
        25_830_912,
        {
            "vocab_size": 6400,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_theta": 1e5,
        },
    ),
    "110m": Preset(
        "GPT-2 small's width and depth. 2.2 billion tokens: an hour at 400 TFLOP/s, an H100.",
        110_121_216,
        {
            "vocab_size": 32768,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_theta": 1e5,
        },
    ),
    "360m": Preset(
        "The published dimensions of SmolLM2-360M. 7.2 billion tokens: 11 hours at 400 TFLOP/s.",
        361_825_216,
        {
            "vocab_size": 49152,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rope_theta": 1e5,
        },
    ),
    "600m": Preset(
        "The published dimensions of Qwen3-0.6B, with a vocabulary learned from your corpus. "
        "vocab_size=32768 beside it makes it 474 M, which suits a corpus of one language.",
        596_049_920,
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_theta": 1e6,
        },
    ),
}
"""Preset by name. All of them share the embedding with the head, as the default does."""
