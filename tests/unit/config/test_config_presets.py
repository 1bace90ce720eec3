"""Presets: honest names, numbers that give way to explicit ones, configs that read back equal."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from ytrainer_core.config import ArchitectureConfig, PretrainConfig, dump_json, narrow
from ytrainer_core.config.presets import PRESETS, PresetName
from ytrainer_core.errors import ConfigError


def parameters(shape: ArchitectureConfig) -> int:
    """Weights of a Qwen3 model, counted by hand."""
    width, head = shape.hidden_size, shape.head_dim
    queries, keys = shape.num_attention_heads * head, shape.num_key_value_heads * head
    attention = 2 * width * queries + 2 * width * keys + 2 * head  # q, o; k, v; two norms of heads
    layer = attention + 3 * width * shape.intermediate_size + 2 * width
    embeddings = shape.vocab_size * width * (1 if shape.tie_word_embeddings else 2)
    return shape.num_hidden_layers * layer + width + embeddings


def test_every_name_has_its_numbers_and_says_what_it_is_for() -> None:
    assert get_args(PresetName) == ("", *PRESETS)
    assert all(preset.description.endswith(".") for preset in PRESETS.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_its_name_says(name: str) -> None:
    made = parameters(ArchitectureConfig(preset=name))
    assert made == PRESETS[name].parameters
    assert made == pytest.approx(float(name.removesuffix("m")) * 1e6, rel=0.02)


def test_600m_has_the_published_dimensions_of_qwen3() -> None:
    shape = ArchitectureConfig(preset="600m")
    assert (shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers) == (1024, 3072, 28)
    assert (shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim) == (16, 8, 128)


def test_a_given_number_wins_over_the_preset_and_the_preset_over_the_defaults() -> None:
    shape = ArchitectureConfig(preset="110m", num_hidden_layers=3)
    assert (shape.num_hidden_layers, shape.hidden_size, shape.vocab_size) == (3, 768, 32768)
    assert shape.initializer_range == ArchitectureConfig().initializer_range


@pytest.mark.parametrize(
    "shape", [{}, {"preset": "26m"}, {"preset": "600m", "vocab_size": 32768, "head_dim": 64}]
)
def test_a_resolved_config_reads_back_as_the_same_config(shape: dict[str, Any]) -> None:
    config = narrow(PretrainConfig, {"architecture": shape})
    assert PretrainConfig.model_validate_json(dump_json(config)) == config


@pytest.mark.parametrize(
    "shape, reason",
    [
        ({"preset": "7b"}, "architecture.preset: "),
        ({"preset": ["2m"]}, "architecture.preset: "),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "must be a multiple of"),
        ({"preset": "360m", "num_key_value_heads": 4}, "num_attention_heads 15 must be a multiple"),
        ({"head_dim": 15}, "head_dim 15 must be even"),
    ],
)
def test_a_shape_that_no_model_can_have_is_refused(shape: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        narrow(PretrainConfig, {"architecture": shape})
