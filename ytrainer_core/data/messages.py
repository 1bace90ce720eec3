"""Messages become turns: who spoke, what was said, and whether the answer is to be trained."""

from __future__ import annotations

from collections.abc import Mapping

from ytrainer_core.data.fields import shown, string, structured, truth
from ytrainer_core.data.rows import UNKNOWN_SHAPE, Fields, RowFault, Turn
from ytrainer_core.data.tools import call_text, calls_text, tools_text

Turns = tuple[Turn, ...]

ROLES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""What files call a role -> what chat templates call it."""

_MARKS = ("loss", "weight")
"""Fields of a message that say whether its answer is trained."""


def turns_of(row: Fields, name: str) -> Turns:
    """A field that holds a list of messages, also as JSON text."""
    messages = structured(row.get(name))
    if not isinstance(messages, list):
        raise RowFault(
            UNKNOWN_SHAPE, f"'{name}' is a {type(messages).__name__}, expected a list of messages"
        )
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        turn = _turn(message, f"{name}[{number}]")
        called = isinstance(message, Mapping) and _said_by(message) == "function_call"
        if called and turns and turns[-1].role == "assistant":
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
    return tuple(turns)


def turns_or_text(row: Fields, name: str, role: str) -> Turns:
    """A field that holds what `role` says, as text, as one message, or as a list of messages."""
    value = row.get(name)
    if isinstance(value, list):
        return turns_of(row, name)
    if isinstance(value, Mapping):
        return (_turn(value, f"'{name}'"),)
    return (Turn(role, string(row, name)),)


def with_system(row: Fields, turns: Turns) -> Turns:
    """The turns with the row's own `system` and `tools` before them, in one system turn."""
    own = [part for part in (string(row, "system"), tools_text(row.get("tools"))) if part]
    if not own:
        return turns
    if turns and turns[0].role == "system":
        own = [part for part in (turns[0].content, *own) if part]
        turns = turns[1:]
    return (Turn("system", "\n\n".join(own)), *turns)


def history(row: Fields) -> Turns:
    """Earlier rounds of the conversation, from the field `history`."""
    pairs = structured(row.get("history")) or []
    turns: list[Turn] = []
    if not isinstance(pairs, list):
        raise RowFault(UNKNOWN_SHAPE, "'history' is not a list of [question, answer] pairs")
    for pair in pairs:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        ):
            raise RowFault(
                UNKNOWN_SHAPE, "'history' holds something else than [question, answer] of strings"
            )
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return tuple(turns)


def _joined(said: Turn, call: Turn) -> Turn:
    """An answer and the call that follows it, which a chat template prints as one turn."""
    content = "\n".join(part for part in (said.content, call.content) if part)
    return Turn("assistant", content, trained=said.trained and call.trained)


def _said_by(message: Fields) -> object:
    return message.get("from") or message.get("role")  # a table gives fields that are not set null


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowFault(
            UNKNOWN_SHAPE, f"{where} is a {type(message).__name__}, expected an object with a role"
        )
    said_by = _said_by(message)
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise RowFault(
            UNKNOWN_SHAPE, f"{where} has the role {shown(said_by)}. Known are {', '.join(ROLES)}"
        )
    said = message.get("value")
    content = _content(message.get("content") if said is None else said, where)
    if said_by == "function_call":
        content = call_text(content)
    if calls := calls_text(message, where):
        content = "\n".join(part for part in (content, *calls) if part)
    return Turn(role, content, trained=role != "assistant" or _is_trained(message, where))


def _is_trained(message: Fields, where: str) -> bool:
    for mark in _MARKS:
        value = message.get(mark)
        if value is None:
            continue
        if (trained := truth(value)) is None:
            raise RowFault(
                UNKNOWN_SHAPE,
                f"{where} has the {mark} {shown(value)}, but an answer is trained (1 or true) or "
                "not (0 or false). Write one of these",
            )
        if not trained:
            return False
    return True


def _content(value: object, where: str) -> str:
    """Text of a message: a string, null, or a list of text parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    raise RowFault(
        UNKNOWN_SHAPE, f"{where} has content that is a {type(value).__name__}, expected a string"
    )
