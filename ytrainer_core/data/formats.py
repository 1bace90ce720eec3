"""Every row shape that users bring becomes one thing: turns, or a raw document.

Field names are those of facts/formats.md. A shape is recognised by its field names alone, so that
a row with a wrong value is reported as a wrong row of its shape and not as another shape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UNREADABLE = "unreadable_row"
UNKNOWN_SHAPE = "unknown_shape"
NOT_FOR_TRAINING = "not_for_training"
EMPTY_TEXT = "empty_text"

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. role: system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation (turns) or a raw document (text), and the place it came from.

    raw is the row as it stood in the file, for the quarantine; it says nothing about equality.
    """

    origin: str
    turns: tuple[Turn, ...]
    text: str = ""
    raw: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not enter the corpus: where it stood, which rule it broke, and why."""

    origin: str
    rule: str
    reason: str
    raw: str


class RowFault(Exception):
    """A row that cannot be read as its shape. Carries the rule it breaks."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason


Parsed = tuple[tuple[Turn, ...], str]
"""(turns, text): the one or the other is empty."""

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

# The pairs of field names that hold a prompt and its answer.
_PROMPT_FIELDS = (("prompt", "completion"), ("prompt", "response"), ("query", "response"))

# What a Qwen or Hermes template prints for tools; the corpus keeps text, not schemas, so that
# a row looks the same whatever model is trained on it.
_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One row shape: how it is recognised by its field names, and how it is read."""

    fields: str
    matches: Callable[[Fields], bool]
    parse: Callable[[Fields], Parsed]


def detect_shape(row: Fields) -> str | None:
    """The name of the shape of one row, None where it is none that can be trained on."""
    if _is_preference_pair(row):
        return None
    return next((name for name, shape in SHAPES.items() if shape.matches(row)), None)


def parse_row(row: Fields, shape: str) -> Parsed:
    """Read one row as the named shape. Raises RowFault where it does not fit."""
    if _is_preference_pair(row):
        raise unknown_shape(row)
    if not SHAPES[shape].matches(row):
        raise RowFault(
            UNKNOWN_SHAPE,
            f"has the fields {_names(row)}, but format '{shape}' needs {SHAPES[shape].fields}. "
            "Name the fields so, or set data.format",
        )
    _refuse_marked(row)
    if row.get("images") or row.get("videos") or row.get("audios"):
        raise RowFault(UNKNOWN_SHAPE, "holds images, sound or video; only text can be trained yet")
    turns, text = SHAPES[shape].parse(row)
    for part in (text, *(turn.content for turn in turns)):
        _refuse_surrogates(part)
    return turns, text


def unknown_shape(row: Fields) -> RowFault:
    """The fault of a row that no shape matches."""
    if _is_preference_pair(row):
        return RowFault(
            UNKNOWN_SHAPE,
            "is a preference pair (chosen, rejected), which has no single answer to train. "
            "Keep the chosen answer as the assistant's turn, or leave the file out",
        )
    known = "; ".join(f"{name}: {shape.fields}" for name, shape in SHAPES.items())
    return RowFault(
        UNKNOWN_SHAPE, f"has the fields {_names(row)}, which no format has. Known are {known}"
    )


def _is_preference_pair(row: Fields) -> bool:
    return "chosen" in row or "rejected" in row


def _names(row: Fields) -> str:
    return ", ".join(repr(str(name)) for name in row) or "(none)"


def _refuse_marked(row: Fields) -> None:
    for mark in ("label", "kto_tag"):
        if row.get(mark) is False:
            raise RowFault(
                NOT_FOR_TRAINING,
                f"says '{mark}': false, a bad answer that must not be imitated. "
                "Leave it out, or train with a preference method",
            )


def _refuse_surrogates(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowFault(
            UNREADABLE,
            f"holds half a character (a lone surrogate, {text[error.start]!r}), which no encoding "
            "can write. Export the row again with whole characters",
        ) from error


def _string(row: Fields, name: str) -> str:
    """A text field; a missing field and null read as empty, so that the checks name them."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise RowFault(
        UNKNOWN_SHAPE,
        f"'{name}' is a {type(value).__name__}, expected a string. Write it as text",
    )


def _system(row: Fields) -> tuple[Turn, ...]:
    """The system turn of a row's own `system` and `tools` fields; none where both are empty."""
    parts = (_string(row, "system"), _tools_text(row.get("tools")))
    content = "\n\n".join(part for part in parts if part)
    return (Turn("system", content),) if content else ()


def _history(row: Fields) -> tuple[Turn, ...]:
    history = row.get("history") or []
    turns: list[Turn] = []
    if not isinstance(history, list):
        raise RowFault(UNKNOWN_SHAPE, "'history' is not a list of [question, answer] pairs")
    for pair in history:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        ):
            raise RowFault(
                UNKNOWN_SHAPE, "'history' holds something else than [question, answer] of strings"
            )
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return tuple(turns)


def _parse_alpaca(row: Fields) -> Parsed:
    instruction, given = _string(row, "instruction"), _string(row, "input")
    prompt = f"{instruction}\n{given}" if instruction and given else instruction or given
    answer = _string(row, "output")
    return (*_system(row), *_history(row), Turn("user", prompt), Turn("assistant", answer)), ""


def _parse_prompt_completion(row: Fields) -> Parsed:
    ask, reply = next((a, b) for a, b in _PROMPT_FIELDS if a in row and b in row)
    prompt = _turns_or_text(row, ask, "user")
    answer = _turns_or_text(row, reply, "assistant")
    return _with_system(_system(row), (*_history(row), *prompt, *answer)), ""


def _turns_or_text(row: Fields, name: str, role: str) -> tuple[Turn, ...]:
    if isinstance(row[name], list):
        return _turns(row, name)
    return (Turn(role, _string(row, name)),)


def _parse_question_answer(row: Fields) -> Parsed:
    question, answer = _string(row, "question"), _string(row, "answer")
    return (*_system(row), Turn("user", question), Turn("assistant", answer)), ""


def _parse_text(row: Fields) -> Parsed:
    text = _string(row, "text" if "text" in row else "output")
    if not text.strip():
        raise RowFault(EMPTY_TEXT, "is a document without text. Leave it out")
    return (), text


def _parse_messages(row: Fields) -> Parsed:
    return _with_system(_system(row), _turns(row, "messages")), ""


def _parse_sharegpt(row: Fields) -> Parsed:
    return _with_system(_system(row), _turns(row, "conversations")), ""


def _with_system(system: tuple[Turn, ...], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Put the row's `system` and `tools` fields first, joined with a system turn it already has."""
    if system and turns and turns[0].role == "system":
        joined = f"{turns[0].content}\n\n{system[0].content}"
        return (Turn("system", joined), *turns[1:])
    return (*system, *turns)


def _turns(row: Fields, name: str) -> tuple[Turn, ...]:
    messages = row[name]
    if not isinstance(messages, list):
        raise RowFault(
            UNKNOWN_SHAPE, f"'{name}' is a {type(messages).__name__}, expected a list of messages"
        )
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        turn = _turn(message, f"{name}[{number}]")
        called = isinstance(message, Mapping) and _said_by(message) == "function_call"
        if called and turns and turns[-1].role == "assistant":
            turns[-1] = Turn("assistant", f"{turns[-1].content}\n{turn.content}")
        else:
            turns.append(turn)
    return tuple(turns)


def _said_by(message: Fields) -> object:
    return message["from"] if "from" in message else message.get("role")


def _turn(message: object, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowFault(
            UNKNOWN_SHAPE, f"{where} is a {type(message).__name__}, expected an object with a role"
        )
    said_by = _said_by(message)
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise RowFault(
            UNKNOWN_SHAPE, f"{where} has the role {said_by!r}. Known are {', '.join(ROLES)}"
        )
    if role == "assistant" and any(message.get(mark) in (False, 0) for mark in ("loss", "weight")):
        raise RowFault(
            NOT_FOR_TRAINING,
            f"{where} says that it is not to be trained (loss or weight is 0), which cannot be "
            "kept per turn. Leave the field out to train every answer",
        )
    content = _content(message["value"] if "value" in message else message.get("content"), where)
    if said_by == "function_call":
        content = _tool_call_text(content)
    calls = [_tool_call_text(_called(call, where)) for call in _calls(message, where)]
    return Turn(role, "\n".join(part for part in (content, *calls) if part) if calls else content)


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


def _calls(message: Fields, where: str) -> Sequence[object]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowFault(UNKNOWN_SHAPE, f"{where} has 'tool_calls' that is not a list")
    return calls


def _called(call: object, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowFault(UNKNOWN_SHAPE, f"{where} has a tool call without a function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise RowFault(
                UNKNOWN_SHAPE,
                f"{where} has a tool call whose arguments are not JSON ({error}). Mend them",
            ) from error
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def _tool_call_text(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


def _tools_text(tools: object) -> str:
    """The system text that offers tools: one function schema a line, as Qwen's template prints."""
    if isinstance(tools, str):
        if not tools.strip():
            return ""
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise RowFault(UNKNOWN_SHAPE, f"'tools' is not JSON ({error}). Mend it") from error
    if not tools:
        return ""
    if not isinstance(tools, list):
        raise RowFault(UNKNOWN_SHAPE, "'tools' is not a list of function schemas")
    return _TOOLS_HEAD + "".join(f"\n{_schema_line(tool)}" for tool in tools) + _TOOLS_TAIL


def _schema_line(tool: object) -> str:
    whole = isinstance(tool, Mapping) and "type" in tool and "function" in tool
    schema = tool if whole else {"type": "function", "function": tool}
    return json.dumps(schema, ensure_ascii=False)


def _is_alpaca(row: Fields) -> bool:
    return "output" in row and ("instruction" in row or "input" in row)


def _is_prompt_completion(row: Fields) -> bool:
    return any(ask in row and reply in row for ask, reply in _PROMPT_FIELDS)


def _is_question_answer(row: Fields) -> bool:
    return "question" in row and "answer" in row


def _is_text(row: Fields) -> bool:
    """`text`, or the published trainer's pre-training rows: `output` with nothing but an id."""
    return "text" in row or ("output" in row and set(row) <= {"output", "ID", "id"})


# In the order of recognition: a row with messages and a stray 'text' is a conversation.
SHAPES: dict[str, Shape] = {
    "messages": Shape(
        "messages = [{role, content}]", lambda row: "messages" in row, _parse_messages
    ),
    "sharegpt": Shape(
        "conversations = [{from, value}]", lambda row: "conversations" in row, _parse_sharegpt
    ),
    "alpaca": Shape("instruction, output (and input)", _is_alpaca, _parse_alpaca),
    "prompt_completion": Shape(
        "prompt, completion", _is_prompt_completion, _parse_prompt_completion
    ),
    "question_answer": Shape(
        "question, answer",
        _is_question_answer,
        _parse_question_answer,
    ),
    "text": Shape("text", _is_text, _parse_text),
}
