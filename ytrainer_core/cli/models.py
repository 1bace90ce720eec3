"""Commands on trained models: merge and chat."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from ytrainer_core.cli.console import print_summary, relative
from ytrainer_core.cli.registry import registry_app
from ytrainer_core.config import ModelConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.files import atomic_folder

__all__ = ["add_commands", "registry_app", "reply"]


def add_commands(app: typer.Typer) -> None:
    """Add merge and chat."""
    app.command("merge")(merge)
    app.command("chat")(chat)


def merge(
    adapter: Path = typer.Argument(help="The 'model' folder of a LoRA training."),
    destination: Path = typer.Option(..., "--out", help="New folder for the full model."),
) -> None:
    """Merge an adapter into its base model."""
    from ytrainer_core.stages.run import quiet_libraries
    from ytrainer_core.training.model import merge as merge_adapter

    quiet_libraries()
    if destination.exists() and (destination.is_file() or any(destination.iterdir())):
        raise ConfigError(f"--out {destination}: is not empty. Name a new folder.")
    with atomic_folder(destination.absolute()) as scratch:
        merge_adapter(adapter, scratch)
    print_summary("merge", {"output": relative(destination.absolute())})


def chat(
    model: str = typer.Argument(help="models:/NAME@champion, a model folder, or a hub id."),
    once: str = typer.Option("", "--once", help="Ask this one message, print the answer, end."),
    system: str = typer.Option("", "--system", help="System message."),
    max_new_tokens: int = typer.Option(256, min=1, help="Longest answer, in tokens."),
    temperature: float = typer.Option(0.0, min=0.0, help="0 takes the most likely token."),
    seed: int = typer.Option(0, help="Seed of the sampling, where temperature is above 0."),
) -> None:
    """Talk to a model; it remembers the conversation. On a terminal answers come word by word."""
    import torch

    from ytrainer_core.data.tokenize import require_chat_template
    from ytrainer_core.stages.run import quiet_libraries

    quiet_libraries()
    loaded, tokenizer = _load(model)
    require_chat_template(tokenizer)
    torch.manual_seed(seed)
    messages = [{"role": "system", "content": system}] if system else []
    stream = sys.stdout.isatty()

    def answer(question: str) -> None:
        messages.append({"role": "user", "content": question})
        said = reply(loaded, tokenizer, messages, max_new_tokens, temperature, stream=stream)
        messages.append({"role": "assistant", "content": said})
        if not stream:
            print(said, flush=True)

    if once:
        answer(once)
        return
    print("An empty line ends the chat.", file=sys.stderr)
    while question := _ask():
        answer(question)


def reply(
    model: Any,
    tokenizer: Any,
    messages: list[dict[str, str]],
    max_new_tokens: int,
    temperature: float,
    *,
    stream: bool = False,
) -> str:
    """The next answer of a conversation; printed while it is made where `stream`.

    The oldest turns are taken out of `messages`, a system message stays, where the conversation
    has grown longer than the model can read.
    """
    import torch
    from transformers import TextStreamer

    from ytrainer_core.evaluation.generate import stop_tokens
    from ytrainer_core.objectives.attach import causal_lm

    inner = causal_lm(model)
    most = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    ids = _prompt(tokenizer, messages)
    while most and len(ids) + max_new_tokens > most and _forget_oldest(messages):
        ids = _prompt(tokenizer, messages)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    prompt = torch.tensor([ids], device=inner.device)
    with torch.no_grad():
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_p=None,
            top_k=None,
            eos_token_id=stop_tokens(inner, tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer if stream else None,
        )
    return str(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))


def _prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _forget_oldest(messages: list[dict[str, str]]) -> bool:
    """Take the oldest question and its answer out; False where only the last question is left."""
    first = 1 if messages[0]["role"] == "system" else 0
    if len(messages) - first < 3:
        return False
    del messages[first : first + 2]
    return True


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _load(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) by registry URI, trained folder, base folder or hub id."""
    from ytrainer_core.demo.resources import locate as locate_demo
    from ytrainer_core.training.model import (
        CARD_NAME,
        load_model,
        load_tokenizer,
        load_trained,
        locate,
    )

    if name.startswith("models:/"):
        from ytrainer_core.registry import load_registered

        return load_registered(name)
    name = locate_demo(name)
    if (Path(name) / CARD_NAME).exists():
        model, tokenizer, _ = load_trained(Path(name))
        return model, tokenizer
    config = ModelConfig(name_or_path=name)
    folder = locate(config)
    return load_model(folder, config).eval(), load_tokenizer(folder)
