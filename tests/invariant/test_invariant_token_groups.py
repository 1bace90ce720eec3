"""Token groups: every target in exactly one group, each with the loss it has in its full row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ytrainer_core.objectives.attach import model_signals
from ytrainer_core.training.token_groups import token_groups


def groups_of(
    input_ids: list[int], labels: list[int], size: int
) -> list[tuple[list[int], list[int]]]:
    """(input_ids, labels) of each group's sample."""
    targets = np.flatnonzero(np.array(labels) != -100)
    return [
        (input_ids[start:end], [-100] * (first - start) + labels[first:end])
        for start, end, first in token_groups(targets, size)
    ]


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_every_target_is_in_exactly_one_group(trained: list[bool], group_size: int) -> None:
    ids = list(range(len(trained)))
    labels = [i if on else -100 for i, on in zip(ids, trained, strict=True)]
    groups = groups_of(ids, labels, group_size)
    found = []
    for input_ids, masked in groups:
        assert input_ids == ids[: len(input_ids)] and len(masked) == len(input_ids)
        assert masked[-1] != -100
        found.append([label for label in masked if label != -100])
    assert [label for group in found for label in group] == [i for i in labels[1:] if i != -100]
    assert all(len(group) == group_size for group in found[:-1])
    assert all(1 <= len(group) <= group_size for group in found[-1:])


@pytest.mark.parametrize("group_size", [1, 4, 10, 100])
def test_the_loss_of_a_group_is_that_of_its_tokens_in_the_full_row(
    group_size: int,
    make_model: Callable[..., Any],
    make_rows: Callable[..., Any],
    plain_signals: Callable[..., Any],
) -> None:
    model, (row,) = make_model(), make_rows([30], prompt=7)
    full = plain_signals(model, row)[0]
    parts = [
        model_signals(model, torch.tensor([input_ids]), torch.tensor([labels])).nll
        for input_ids, labels in groups_of(row["input_ids"], row["labels"], group_size)
    ]
    assert [len(part) for part in parts] == [len(part) for part in full.split(group_size)]
    torch.testing.assert_close(torch.cat(parts), full, rtol=1e-5, atol=1e-5)
