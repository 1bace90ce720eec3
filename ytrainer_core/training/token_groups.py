"""Token groups: an answer is learned ten target tokens at a time.

Every group is one optimizer step, so that a token's weight sees what the step
before taught. A sample ends at its group's last target: nothing behind it could
change its loss, so nothing behind it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def token_groups(
    input_ids: Sequence[int], labels: Sequence[int], group_size: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Cut one row into (input_ids, labels) samples of `group_size` targets each.

    Every target is in exactly one group, the last group may be smaller.
    Source: facts on the published trainer; it drops the tail, we do not.
    """
    targets = [i for i, label in enumerate(labels) if label != -100 and i > 0]
    for start in range(0, len(targets), group_size):
        group = targets[start : start + group_size]
        end = group[-1] + 1
        masked = [-100] * end
        for i in group:
            masked[i] = labels[i]
        yield list(input_ids[:end]), masked
