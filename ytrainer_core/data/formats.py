"""Every row shape that users bring becomes one thing: turns, or a raw document.

Field names are those of facts/formats.md. A shape is recognised by its field names alone, so that
a row with a wrong value is reported as a wrong row of its shape and not as another shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ytrainer_core.data.fields import as_json, label_of, names, refuse_surrogates, string
from ytrainer_core.data.messages import Turns, history, turns_of, turns_or_text, with_system
from ytrainer_core.data.pairs import FIELDS as PAIR_FIELDS
from ytrainer_core.data.pairs import instruction_turn, is_preference, parse_preference
from ytrainer_core.data.rows import (
    EMPTY_TEXT,
    NOT_FOR_TRAINING,
    UNKNOWN_SHAPE,
    UNREADABLE,
    Fields,
    ParsedRow,
    Rejected,
    Row,
    RowFault,
    Turn,
)

__all__ = [
    "EMPTY_TEXT",
    "NOT_FOR_TRAINING",
    "SHAPES",
    "UNKNOWN_SHAPE",
    "UNREADABLE",
    "Fields",
    "ParsedRow",
    "Rejected",
    "Row",
    "RowFault",
    "Shape",
    "Turn",
    "detect_shape",
    "parse_row",
    "unknown_shape",
]

# The pairs of field names that hold a prompt and its answer.
_PROMPT_FIELDS = (("prompt", "completion"), ("prompt", "response"), ("query", "response"))

_QUESTION, _ANSWER = "输入", "输出"
"""What a Y-Agent export calls its prompts and answers."""

_SIGHT_AND_SOUND = ("images", "videos", "audios")

_OF_THE_PROMPT = ("prompt", "system", "tools", "history")
"""Columns that a prompt's turns are made of; all others are its `extra`."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One row shape: how it is recognised by its field names, and how it is read."""

    fields: str
    matches: Callable[[Fields], bool]
    parse: Callable[[Fields], ParsedRow]


def detect_shape(row: Fields) -> str | None:
    """The name of the shape of one row, None where it is none that can be trained on."""
    return next((name for name, shape in SHAPES.items() if shape.matches(row)), None)


def parse_row(row: Fields, shape: str) -> ParsedRow:
    """Read one row as the named shape. Raises RowFault where it does not fit."""
    if not SHAPES[shape].matches(row):
        raise RowFault(
            UNKNOWN_SHAPE,
            f"has the fields {names(row)}, but format '{shape}' needs {SHAPES[shape].fields}. "
            "Name the fields so, or set data.format",
        )
    if any(row.get(name) for name in _SIGHT_AND_SOUND):
        raise RowFault(UNKNOWN_SHAPE, "holds images, sound or video; only text can be trained yet")
    try:
        parsed = SHAPES[shape].parse(row)
    except RecursionError as error:
        raise RowFault(UNREADABLE, "is nested too deeply to be read. Flatten it") from error
    refuse_surrogates(parsed)
    return parsed


def unknown_shape(row: Fields) -> RowFault:
    """The fault of a row that no shape matches."""
    known = "; ".join(f"{name}: {shape.fields}" for name, shape in SHAPES.items())
    return RowFault(
        UNKNOWN_SHAPE, f"has the fields {names(row)}, which no format has. Known are {known}"
    )


def _conversation(parse: Callable[[Fields], Turns]) -> Callable[[Fields], ParsedRow]:
    """The parser of a shape whose rows are conversations, with a label or without."""

    def parse_conversation(row: Fields) -> ParsedRow:
        turns = with_system(row, parse(row))
        answers = [turn for turn in turns if turn.role == "assistant"]
        if answers and not any(turn.trained for turn in answers):
            raise RowFault(
                NOT_FOR_TRAINING,
                "says of each of its answers that it is not to be trained (loss or weight is 0). "
                "Leave the row out, or mark the answers that are to be trained",
            )
        return ParsedRow(turns, label=label_of(row))

    return parse_conversation


def _alpaca(row: Fields) -> Turns:
    return (*history(row), instruction_turn(row), Turn("assistant", string(row, "output")))


def _prompt_completion(row: Fields) -> Turns:
    ask, reply = next((a, b) for a, b in _PROMPT_FIELDS if a in row and b in row)
    prompt = turns_or_text(row, ask, "user")
    return (*history(row), *prompt, *turns_or_text(row, reply, "assistant"))


def _question_answer(row: Fields) -> Turns:
    return _asked(row, "question", "answer")


def _y_agent(row: Fields) -> Turns:
    return _asked(row, _QUESTION, _ANSWER)


def _asked(row: Fields, question: str, answer: str) -> Turns:
    return Turn("user", string(row, question)), Turn("assistant", string(row, answer))


def _parse_text(row: Fields) -> ParsedRow:
    text = string(row, "text" if "text" in row else "output")
    if not text.strip():
        raise RowFault(EMPTY_TEXT, "is a document without text. Leave it out")
    return ParsedRow(text=text)


def _parse_prompt(row: Fields) -> ParsedRow:
    """A question for which answers will be sampled, with all that a reward may want to know."""
    turns = with_system(row, (*history(row), *turns_or_text(row, "prompt", "user")))
    if not turns or turns[-1].role not in ("user", "tool"):
        ends = f"ends with '{turns[-1].role}'" if turns else "holds no message"
        raise RowFault(
            UNKNOWN_SHAPE,
            f"'prompt' {ends}, so there is nothing to answer. End it with the question, or give "
            "the answer a field of its own ('completion')",
        )
    others = {name: value for name, value in row.items() if name not in _OF_THE_PROMPT}
    return ParsedRow(turns, extra=as_json(others))


def _is_y_agent(row: Fields) -> bool:
    return _QUESTION in row and _ANSWER in row


def _is_alpaca(row: Fields) -> bool:
    return "output" in row and ("instruction" in row or "input" in row)


def _is_prompt_completion(row: Fields) -> bool:
    return any(ask in row and reply in row for ask, reply in _PROMPT_FIELDS)


def _is_question_answer(row: Fields) -> bool:
    return "question" in row and "answer" in row


def _is_text(row: Fields) -> bool:
    """`text`, or the published trainer's pre-training rows: `output` with nothing but an id."""
    return "text" in row or ("output" in row and set(row) <= {"output", "ID", "id"})


# In the order of recognition: a row with messages and a stray 'text' is a conversation, and a
# prompt is a question for rewards only where nothing else in its row is the answer.
SHAPES: dict[str, Shape] = {
    "y_agent": Shape(f"{_QUESTION}, {_ANSWER}", _is_y_agent, _conversation(_y_agent)),
    "preference": Shape(PAIR_FIELDS, is_preference, parse_preference),
    "messages": Shape(
        "messages = [{role, content}]",
        lambda row: "messages" in row,
        _conversation(lambda row: turns_of(row, "messages")),
    ),
    "sharegpt": Shape(
        "conversations = [{from, value}]",
        lambda row: "conversations" in row,
        _conversation(lambda row: turns_of(row, "conversations")),
    ),
    "alpaca": Shape("instruction, output (and input)", _is_alpaca, _conversation(_alpaca)),
    "prompt_completion": Shape(
        "prompt, completion", _is_prompt_completion, _conversation(_prompt_completion)
    ),
    "question_answer": Shape(
        "question, answer", _is_question_answer, _conversation(_question_answer)
    ),
    "text": Shape("text", _is_text, _parse_text),
    "prompt": Shape("prompt (and what rewards need)", lambda row: "prompt" in row, _parse_prompt),
}
