"""One at a time moves the champion, in a registry that knows neither locks nor compare-and-swap.

Announce, then check: whoever wants to move the alias writes a claim, a tag on the registered model,
and then reads all claims. Alone, they go on. Where there is another claim, they withdraw theirs,
wait a random moment and look again. Of two that come together each sees the other, so that both
withdraw; of two that come one after the other the second sees the first; two can never both go on.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ytrainer_core.errors import RegistryError

CLAIM_PREFIX = "ytrainer.claim."

DEAD_SECONDS = 60.0
"""A claim that was watched this long without a change is that of a dead process. Each watches by
its own clock: the clocks of two machines need not agree."""
HELD_SECONDS = DEAD_SECONDS / 2
"""Who has held a claim this long moves nothing any more: others may soon think it dead."""
_PATIENCE_SECONDS = 5 * 60.0
_SHORTEST_TRY_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 10.0
_DOUBLINGS = 6


class Claim:
    """The claim that is held for the length of a `with sole_claim` block.

    model: the RegisteredModel as it was read while the claim was held.
    """

    def __init__(self, name: str) -> None:
        self.model: Any = None
        self._name, self._since = name, time.monotonic()

    @property
    def held_seconds(self) -> float:
        """How long ago the claim was written, at most."""
        return time.monotonic() - self._since

    def require_fresh(self) -> None:
        """Raise RegistryError where the registry was so slow that others may have taken over."""
        if self.held_seconds > HELD_SECONDS:
            raise RegistryError(
                f"'{self._name}': the registry took {self.held_seconds:.0f} s to answer, and "
                "another promotion may have begun meanwhile, so nothing was moved. Do it again."
            )


@contextmanager
def sole_claim(client: Any, name: str, check: Callable[[Any], None]) -> Iterator[Claim]:
    """Hold the only claim on a registered model for the length of the block.

    check: looks at the RegisteredModel before every try, and once more while the claim is held;
    what it raises ends the waiting. Raises RegistryError where no claim could be had.
    """
    key = f"{CLAIM_PREFIX}{uuid.uuid4().hex}"
    watch = _Watch(client, name, key)
    given_up = time.monotonic() + _PATIENCE_SECONDS
    tries = 0
    try:
        while True:
            model = client.get_registered_model(name)
            check(model)
            claim = Claim(name)
            if not watch.others(model):
                tries += 1
                client.set_registered_model_tag(name, key, str(tries))  # a new value is alive
                if not watch.others(client.get_registered_model(name)):
                    break
                client.delete_registered_model_tag(name, key)
            if time.monotonic() > given_up:
                raise RegistryError(
                    f"'{name}': other promotions have been under way for "
                    f"{_PATIENCE_SECONDS / 60:.0f} minutes. Do it again when they are done."
                )
            time.sleep(_pause(claim.held_seconds, tries))
        # Read after the claims were: whoever held one before has moved the alias by now.
        claim.model = client.get_registered_model(name)
        check(claim.model)
        yield claim
    finally:
        if tries:
            client.delete_registered_model_tag(name, key)


def _pause(try_seconds: float, tries: int) -> float:
    """A random time to wait, measured by what a try takes: on a slow server tries collide more."""
    longest = max(_SHORTEST_TRY_SECONDS, try_seconds) * 2 ** min(tries, _DOUBLINGS)
    return random.uniform(0, min(_LONGEST_PAUSE_SECONDS, longest))


class _Watch:
    """Which claims of others are alive, by how long they have stood there unchanged."""

    def __init__(self, client: Any, name: str, own: str) -> None:
        self._client, self._name, self._own = client, name, own
        self._first_seen: dict[tuple[str, str], float] = {}

    def others(self, model: Any) -> list[str]:
        """Live claims of others on a RegisteredModel; those of dead processes are removed."""
        now = time.monotonic()
        alive = []
        for key, value in model.tags.items():
            if not key.startswith(CLAIM_PREFIX) or key == self._own:
                continue
            if now - self._first_seen.setdefault((key, value), now) > DEAD_SECONDS:
                self._client.delete_registered_model_tag(self._name, key)
            else:
                alive.append(key)
        return alive
