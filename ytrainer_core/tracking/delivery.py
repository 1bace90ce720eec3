"""Records of a journal become requests to MLflow, each of which may be repeated.

MLflow's databases know a metric by run, name, step, timestamp and value, and keep an exact
repetition out; the timestamp is therefore in the record. Parameters, tags, data sets,
artifacts and the status are the same after the second time as after the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from ytrainer_core.tracking.journal import Journal, Record
from ytrainer_core.tracking.process import HOST_TAG, PID_TAG, START_TAG
from ytrainer_core.tracking.text import first_line

ERROR_TAG = "ytrainer.error"

_METRICS_PER_REQUEST = 1000  # MLflow's limits
_PARAMS_PER_REQUEST = 100
_ARTIFACT_ATTEMPTS = 3
"""So often is a file offered to a store that takes everything else."""
_ARTIFACT_PAUSE_SECONDS = 1.0
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
"""MLflow's words for a value that it will never take, however often it is sent."""

Warn = Callable[[str, str], None]
"""Called with what was not recorded, and why."""


class Delivery:
    """Sends the records of one journal, in their order.

    warn: told what the store refuses, or has already with another value; the rest goes on.
    """

    def __init__(self, client: Any, journal: Journal, warn: Warn) -> None:
        self._client, self._journal, self._warn = client, journal, warn
        self._run_id: str = journal.about["run_id"]

    def deliver(self) -> None:
        """Send what the journal holds. Raises what the client raises where it cannot be sent."""
        while True:
            records, end = self._journal.pending()
            for kind, group in groupby(records, key=lambda record: record["kind"]):
                getattr(self, f"_send_{kind}")(list(group))
            self._journal.delivered(records, end)
            if not records:
                return

    def end(self, status: str, time_ms: int | None = None) -> None:
        """Close the run, unless another process has taken it over since."""
        if self.is_ours():
            self._client.set_terminated(self._run_id, status, time_ms)

    def is_ours(self) -> bool:
        """Whether the process that wrote the journal is the last one that had the run."""
        tags = self._client.get_run(self._run_id).data.tags
        ours: dict[str, str] = self._journal.about["process"]
        return all(tags.get(name) == ours.get(name) for name in (HOST_TAG, PID_TAG, START_TAG))

    def _send_metrics(self, records: list[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, record["time"], record["step"])
            for record in records
            for name, value in record["values"].items()
        ]
        for first in range(0, len(metrics), _METRICS_PER_REQUEST):
            self._send(
                "metric",
                metrics[first : first + _METRICS_PER_REQUEST],
                lambda batch: self._client.log_batch(self._run_id, metrics=batch),
            )

    def _send_params(self, records: list[Record]) -> None:
        from mlflow.entities import Param

        known = dict(self._client.get_run(self._run_id).data.params)
        new = []
        for name, text in (pair for record in records for pair in record["values"].items()):
            if name not in known:
                known[name] = text
                new.append(Param(name, text))
            elif known[name] != text:
                reason = f"was {known[name]!r} and MLflow cannot change it to {text!r}"
                self._warn(f"parameter {name}", reason)
        for first in range(0, len(new), _PARAMS_PER_REQUEST):
            self._send(
                "parameter",
                new[first : first + _PARAMS_PER_REQUEST],
                lambda batch: self._client.log_batch(self._run_id, params=batch),
            )

    def _send_tag(self, records: list[Record]) -> None:
        from mlflow.entities import RunTag

        for record in records:  # one by one: of two values of one tag, the later one counts
            self._send(
                "tag",
                [RunTag(record["name"], record["value"])],
                lambda batch: self._client.set_tag(self._run_id, batch[0].key, batch[0].value),
            )

    def _send_dataset(self, records: list[Record]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for record in records:
            dataset = Dataset(**record["dataset"])
            tags = [InputTag(name, value) for name, value in record["tags"].items()]
            self._send(
                "data set",
                [DatasetInput(dataset=dataset, tags=tags)],
                lambda batch: self._client.log_inputs(self._run_id, datasets=batch),
            )

    def _send_artifact(self, records: list[Record]) -> None:
        for record in records:
            for attempt in range(1, _ARTIFACT_ATTEMPTS + 1):
                try:
                    self._upload(record)
                    break
                except Exception as error:  # whatever an artifact store may raise
                    self._client.get_run(self._run_id)  # raises where nothing answers
                    if attempt == _ARTIFACT_ATTEMPTS:
                        self._warn("artifacts", f"{type(error).__name__}: {first_line(error)}")
                    else:
                        time.sleep(_ARTIFACT_PAUSE_SECONDS)

    def _upload(self, record: Record) -> None:
        path = self._journal.folder / record["path"]
        if not path.exists():
            return  # a process uploaded it and died before it could say so
        store = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        store(self._run_id, str(path), record["folder"] or None)

    def _send_status(self, records: list[Record]) -> None:
        for record in records:
            self.end(record["status"], record["time"])

    def _send(self, what: str, items: Sequence[Any], send: Callable[[Sequence[Any]], None]) -> None:
        """Send some items; of those that the store refuses together, the good ones."""
        try:
            send(items)
        except Exception as error:  # whatever MLflow, SQLAlchemy or the network may raise
            if not is_refusal(error):
                raise
            if len(items) > 1:
                half = len(items) // 2
                self._send(what, items[:half], send)
                self._send(what, items[half:], send)
            else:
                name = getattr(items[0], "key", "")
                self._warn(f"{what} {name}".strip(), f"{type(error).__name__}: {first_line(error)}")


def is_refusal(error: Exception) -> bool:
    """Whether the store answered 'not this value', rather than not, or not now."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in _REFUSALS
