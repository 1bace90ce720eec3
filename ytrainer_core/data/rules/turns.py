"""Who speaks, in which order, and whether a row can serve its purpose.

Each function gives the reason why a row breaks its rule, or None. Raw documents have no turns and
pass all rules but those about the purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ytrainer_core.config.data import Purpose
from ytrainer_core.data.formats import Row, Turn

_MAY_FOLLOW: Mapping[str, frozenset[str]] = {
    "system": frozenset({"start"}),
    "user": frozenset({"start", "system", "assistant"}),
    "assistant": frozenset({"user", "tool"}),
    "tool": frozenset({"assistant", "tool"}),
}


def not_for_training(row: Row, purpose: Purpose) -> str | None:
    """A bad answer, where answers are imitated."""
    if purpose != "sft" or row.label is not False:
        return None
    return (
        "is labelled as a bad answer, and data.purpose=sft would imitate it. Leave the row out, or "
        "train with it by kto."
    )


def wrong_purpose(row: Row, purpose: Purpose) -> str | None:
    """A row without what its training needs."""
    if purpose == "kto" and row.label is None:
        return (
            "has no label, and data.purpose=kto needs one. Say whether the answer is good: "
            '"label": true or false.'
        )
    if purpose == "preference" and not row.rejected:
        return (
            "has no rejected answer, and data.purpose=preference needs one beside the chosen. Add "
            "'rejected'."
        )
    if purpose == "rl" and not _asks(row):
        return (
            "has no user turn, and data.purpose=rl needs a question to sample answers for. Add "
            "'prompt'."
        )
    if purpose == "sft" and row.kind == "prompt":
        return (
            "is a question without an answer, and data.purpose=sft needs one to imitate. Add the "
            "answer."
        )
    return None


def no_assistant_turn(row: Row, purpose: Purpose) -> str | None:
    if row.kind == "text" and row.text:
        return None
    if any(turn.role == "assistant" for turn in row.turns):
        return None
    if _asks(row) and (purpose == "rl" or (purpose == "auto" and row.kind == "prompt")):
        return None
    roles = ", ".join(turn.role for turn in row.turns) or "no turns at all"
    return f"has no assistant turn ({roles}), so nothing can be trained. Add the answer."


def _asks(row: Row) -> bool:
    return any(turn.role == "user" for turn in row.turns)


def wrong_role_order(row: Row, purpose: Purpose) -> str | None:
    return _wrong_order(row.turns, "start", "") or _wrong_order(
        row.rejected, "", "the rejected answer's "
    )


def _wrong_order(turns: Sequence[Turn], before: str, whose: str) -> str | None:
    """before: the role before the first turn; empty where any may stand there."""
    for number, turn in enumerate(turns, start=1):
        if before and before not in _MAY_FOLLOW[turn.role]:
            after = "at the start" if before == "start" else f"after '{before}'"
            return (
                f"{whose}turn {number} is '{turn.role}' {after}. A conversation is an optional "
                "system turn, then user and assistant in turns; tool results follow an assistant "
                "turn. Put the turns into this order."
            )
        before = turn.role
    return None


def empty_prompt(row: Row, purpose: Purpose) -> str | None:
    for where in _empty(row.turns, "user"):
        return f"{where} is without text. Write the prompt, or leave the row out."
    return None


def empty_answer(row: Row, purpose: Purpose) -> str | None:
    for where in _empty(row.turns, "assistant"):
        return f"{where} is without text. Write the answer, or leave the row out."
    for where in _empty(row.rejected, "assistant"):
        return (
            f"the rejected answer's {where} is without text. Write the answer, or leave the row "
            "out."
        )
    return None


def _empty(turns: Sequence[Turn], role: str) -> Iterator[str]:
    for number, turn in enumerate(turns, start=1):
        if turn.role == role and not turn.content.strip():
            yield f"turn {number} ({role})"


def same_answers(row: Row, purpose: Purpose) -> str | None:
    """Chosen and rejected turns that differ in nothing but white space at their ends."""
    count = len(row.rejected)
    if not count or _said(row.turns[-count:]) != _said(row.rejected):
        return None
    where = f"turn {len(row.turns)} ({row.turns[-1].role})" if row.turns else "the chosen answer"
    return (
        f"{where} is the chosen answer and the rejected one alike, so there is nothing to prefer. "
        "Correct one of the two, or leave the row out."
    )


def _said(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content.strip()) for turn in turns]
