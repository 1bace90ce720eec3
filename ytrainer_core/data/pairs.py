"""A preference row: one prompt with a better and a worse answer, in all the ways files write it."""

from __future__ import annotations

from ytrainer_core.data.fields import names, string
from ytrainer_core.data.messages import Turns, history, turns_of, turns_or_text, with_system
from ytrainer_core.data.rows import UNKNOWN_SHAPE, Fields, ParsedRow, RowFault, Turn

FIELDS = (
    "chosen, rejected (with prompt, instruction, conversations or messages), "
    "or messages, rejected_response"
)
"""How a preference row is recognised, in words."""

_ANSWERS = ("chosen", "rejected")


def is_preference(row: Fields) -> bool:
    """Whether the row has a field that only preference rows have."""
    return any(name in row for name in (*_ANSWERS, "rejected_response"))


def parse_preference(row: Fields) -> ParsedRow:
    """The prompt with the chosen answer, and the rejected answer. Raises RowFault."""
    if "rejected_response" in row:
        return _parse_replaced(row)
    for name in _ANSWERS:
        if name not in row:
            raise RowFault(
                UNKNOWN_SHAPE,
                f"has the fields {names(row)}, but a preference row needs '{name}' too. Add it, or "
                "set data.format if the rows are of another shape",
            )
    chosen, rejected = (turns_or_text(row, name, "assistant") for name in _ANSWERS)
    if _is_whole(chosen) and _is_whole(rejected):
        # The prompt stands in both, so other fields would only say it again.
        return _pair(row, *_split(chosen, rejected))
    return _pair(row, (*history(row), *_prompt(row)), chosen, rejected)


def instruction_turn(row: Fields) -> Turn:
    """The question of an Alpaca row: `instruction`, and `input` below it where there is one."""
    instruction, given = string(row, "instruction"), string(row, "input")
    both = instruction and given
    return Turn("user", f"{instruction}\n{given}" if both else instruction or given)


def _parse_replaced(row: Fields) -> ParsedRow:
    """Messages that end with the chosen answer, and what would stand there in its place."""
    turns = turns_of(row, "messages") if "messages" in row else ()
    if not turns or turns[-1].role != "assistant":
        raise RowFault(
            UNKNOWN_SHAPE,
            "has a 'rejected_response', but no 'messages' that end with the better answer. Add it",
        )
    rejected = turns_or_text(row, "rejected_response", "assistant")
    return _pair(row, turns[:-1], turns[-1:], rejected)


def _pair(row: Fields, prompt: Turns, chosen: Turns, rejected: Turns) -> ParsedRow:
    if not prompt:
        raise RowFault(UNKNOWN_SHAPE, "has no message before its answers. Add the prompt")
    for name, answer in zip(_ANSWERS, (chosen, rejected), strict=True):
        if not answer or answer[0].role != "assistant":
            said = f"begins with '{answer[0].role}'" if answer else "holds no message"
            raise RowFault(
                UNKNOWN_SHAPE,
                f"the {name} answer {said}, expected an answer of the assistant. Write only the "
                "answer there, or the whole conversation in both chosen and rejected",
            )
    return ParsedRow(with_system(row, (*prompt, *chosen)), rejected=rejected)


def _is_whole(turns: Turns) -> bool:
    """Whether these are a whole conversation and not only an answer."""
    return bool(turns) and turns[0].role in ("system", "user")


def _split(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """Two conversations as their common beginning and the two ways on."""
    # The last turn is an answer even where both are the same; the checks speak of that.
    most = min(len(chosen), len(rejected)) - 1
    same = next((i for i in range(most) if chosen[i] != rejected[i]), most)
    if {chosen[same].role, rejected[same].role} != {"assistant"}:
        raise RowFault(
            UNKNOWN_SHAPE,
            "'chosen' and 'rejected' have no common beginning that an answer follows in both. "
            "Begin both with the same prompt",
        )
    return chosen[:same], chosen[same:], rejected[same:]


def _prompt(row: Fields) -> Turns:
    if "prompt" in row:
        return turns_or_text(row, "prompt", "user")
    if "instruction" in row or "input" in row:
        return (instruction_turn(row),)
    for name in ("conversations", "messages"):
        if name in row:
            return turns_of(row, name)
    raise RowFault(
        UNKNOWN_SHAPE,
        f"has the fields {names(row)}, but no prompt, instruction, conversations or messages. "
        "Add the prompt, or say which column it is, as in data.columns=prompt=question",
    )
