"""Objects that are no longer wanted."""

from __future__ import annotations

from collections.abc import Sequence

from ytrainer_core.storage.addresses import address
from ytrainer_core.storage.store import Store


def delete_objects(uris: Sequence[str]) -> None:
    """Delete objects by their addresses s3://bucket/key, one bucket's or several buckets'.

    What is not there any more counts as deleted. Raises DataError like `fetch`.
    """
    if not uris:
        return
    store = Store(uris[0])

    def one(uri: str) -> None:
        store.ask(uri, store.client.delete_object, **address(uri))

    store.together(one, uris, lambda: None)
