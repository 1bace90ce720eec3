"""Token groups: an answer is learned ten target tokens at a time.

Every group is one optimizer step, so that a token's weight sees what the step
before taught. A sample ends at its group's last target: nothing behind it could
change its loss, so nothing behind it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def token_groups(targets: npt.NDArray[np.int64], group_size: int) -> Iterator[tuple[int, int, int]]:
    """Cut one row into (start, end, first target) of `group_size` targets each.

    targets: positions of the row's targets. Every target is in exactly one group, the last
    group may be smaller. Source: facts on the published trainer; it drops the tail, we do not.
    """
    targets = targets[targets > 0]  # nothing predicts a row's first token
    for start in range(0, len(targets), group_size):
        group = targets[start : start + group_size]
        yield 0, int(group[-1]) + 1, int(group[0])
