"""Marks of chat templates inside a text, by which the text could speak in another's name.

A tokenizer reads its own special tokens also where they stand in a message: a user who writes
<|im_end|> ends the turn. Marks of other models are letters to this one, but it learns to write
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain

from ytrainer_core.data.rules.found import Found

# ChatML, Llama 3, Phi, gpt-oss, GLM, Command R and their like write <|name|>, DeepSeek <｜name｜>;
# Llama 2 and Mistral [INST], <<SYS>>, and <s> where a text begins or </s> where it ends.
_MARKS = re.compile(
    r"<[|｜][\w▁]{1,40}[|｜]>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>|\[gMASK\]"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos)>"
    r"|</s>(?=\s*(?:\Z|<s>))"
)
_LEADING_MARK = re.compile(r"\s*<s>")

# Marks that reasoning and tool calls are written with are text that a row may hold.
_WRITTEN = frozenset(
    f"<{slash}{name}>"
    for name in ("think", "tool_call", "tool_response", "tools")
    for slash in ("", "/")
)
# A special token that is a plain word or a single sign stands in ordinary text, too.
_LEAST_CHARACTERS = 3


def own_tokens(special_tokens: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern of the tokenizer's special tokens that no text should hold; None without any."""
    marks = {
        token
        for token in special_tokens
        if len(token) >= _LEAST_CHARACTERS and not token.isalnum() and token not in _WRITTEN
    }
    longest_first = sorted(marks, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def template_tokens(own: re.Pattern[str] | None) -> Callable[[str], Found | None]:
    """The rule for the tokenizer's own special tokens."""

    def own_token(text: str) -> Found | None:
        if own is None or not (found := own.search(text)):
            return None
        return Found(
            found.start(),
            f"{found.group()!r}, a special token of this tokenizer, which would be read as such,",
            "Take it out, or write it apart (with a space inside).",
        )

    return own_token


def foreign_template_tokens(own: re.Pattern[str] | None) -> Callable[[str], Found | None]:
    """The rule for the marks of other models' chat templates."""

    def foreign_token(text: str) -> Found | None:
        if "<" not in text and "[" not in text:
            return None
        leading = _LEADING_MARK.match(text)
        for found in chain([leading] if leading else [], _MARKS.finditer(text)):
            mark = found.group().strip()
            if own is None or not own.fullmatch(mark):
                return Found(
                    found.end() - len(mark),
                    f"{mark!r}, a mark of a chat template,",
                    "Write the turns as messages, and leave the marks to the template.",
                )
        return None

    return foreign_token
