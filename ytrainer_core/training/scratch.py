"""A small model from nothing: byte-level BPE tokenizer, Qwen3 weights, ChatML template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ytrainer_core.config import ArchitectureConfig
from ytrainer_core.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
BUILT_IN_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)

_BYTES = 256
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")

CHATML_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' %}"
    "{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""ChatML whose generation marks tell which tokens are the assistant's."""


def train_tokenizer(texts: Iterable[str], config: ArchitectureConfig) -> Any:
    """A byte-level BPE tokenizer of config.vocab_size entries, learned from `texts`.

    Every byte has a token, so nothing is ever unknown. The special tokens of ChatML are its
    first three entries, config.special_tokens those after; none of them is ever split.
    Raises ConfigError where config.chat_template or config.special_tokens cannot be used.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template = read_chat_template(config.chat_template)
    special = list(dict.fromkeys((*BUILT_IN_TOKENS, *config.special_tokens)))
    if len(special) + _BYTES > config.vocab_size:
        raise ConfigError(
            f"architecture.special_tokens: {len(special)} special tokens and the {_BYTES} bytes do "
            f"not fit into architecture.vocab_size={config.vocab_size}. Set it higher."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=[AddedToken(token, special=True) for token in special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=special[1:],
        chat_template=template,
        model_max_length=config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )


def read_chat_template(path: str) -> str:
    """The Jinja chat template in a file; ChatML where `path` is empty.

    Raises ConfigError where the file is missing, no text, or no template.
    """
    from jinja2 import Environment, TemplateSyntaxError

    if not path:
        return CHATML_TEMPLATE
    try:
        template = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(
            f"architecture.chat_template: {path}: {reason}. Name a Jinja file in UTF-8, or leave "
            "it empty for ChatML."
        ) from error
    # the mark is transformers' own tag, which plain Jinja does not know
    plain = _GENERATION_TAG.sub("", template)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"architecture.chat_template: {path}:{error.lineno}: {error.message}. Mend the "
            "template there."
        ) from error
    return template


def model_shape(config: ArchitectureConfig, tokenizer: Any) -> Any:
    """The Qwen3Config of a model of this architecture for a tokenizer."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_theta=config.rope_theta,
        tie_word_embeddings=config.tie_word_embeddings,
        initializer_range=config.initializer_range,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def new_model(config: ArchitectureConfig, tokenizer: Any, seed: int) -> Any:
    """A Qwen3 model with random weights in float32, on the GPU where there is one.

    The weights are drawn on the CPU, so that one seed gives the same on every device. It ends
    its answers at the end of a turn and at the end of a text, wherever it is served.
    """
    import torch
    from transformers import GenerationConfig, Qwen3ForCausalLM

    torch.manual_seed(seed)
    with torch.device("cpu"):
        model = Qwen3ForCausalLM(model_shape(config, tokenizer))
    ends = [tokenizer.convert_tokens_to_ids(end_of_turn(tokenizer)), tokenizer.eos_token_id]
    model.generation_config = GenerationConfig(
        eos_token_id=list(dict.fromkeys(ends)), pad_token_id=tokenizer.pad_token_id
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def end_of_turn(tokenizer: Any) -> str:
    """The special token that the chat template prints after an answer; eos where it has none.

    Raises ConfigError where the template cannot print a question and its answer.
    """
    from jinja2 import TemplateError

    said = "answer"
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
    try:
        printed = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except (TemplateError, TypeError, KeyError) as error:
        raise ConfigError(
            f"architecture.chat_template: cannot print a question and its answer ({error}). "
            "It is given `messages`, each with `role` and `content`, and `add_generation_prompt`."
        ) from error
    rest = printed.rpartition(said)[2].strip()
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    return next((str(t) for t in special if rest.startswith(t)), str(tokenizer.eos_token))
