"""What a stage sees of its run: five ways to record, none of which stops the work."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ytrainer_core.tracking.delivery import ERROR_TAG, Delivery
from ytrainer_core.tracking.journal import Journal
from ytrainer_core.tracking.sender import Sender
from ytrainer_core.tracking.text import first_line, safe_name, text_of

_PARAM_CHARACTERS = 6000  # MLflow's limit on a parameter's value
_TAG_CHARACTERS = 5000  # the least of MLflow's limits over its stores
_DIGEST_CHARACTERS = 36  # MLflow's limit on a data set's digest
_PATIENCE_SECONDS = 60.0
"""So long does a run's end wait for MLflow: a server restarts in that time, and a pipeline is
not held up for longer by what the next command can deliver as well."""
_PATIENCE_OF_A_KILLED_SECONDS = 10.0
"""The same for a run that is stopped: whoever stops it will soon do so by SIGKILL."""

_logger = logging.getLogger(__name__)


class Run(Protocol):
    """What a stage sees of its run. No method raises or waits on account of MLflow."""

    run_id: str
    """MLflow's run id; empty where nothing is recorded."""

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at an optimizer step, with one timestamp."""

    def params(self, values: Mapping[str, object]) -> None:
        """Record parameters; over-long values are cut."""

    def dataset(self, name: str, path: str | Path, sha256: str, context: str) -> None:
        """Record that this run read a data set (context: training, validation, evaluation)."""

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file, or all files of a folder, below `folder` of the run's artifacts."""

    def tag(self, name: str, value: object) -> None:
        """Set a tag; over-long values are cut."""


class NullRun:
    """The run of a process that records nothing."""

    run_id = ""

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None: ...
    def params(self, values: Mapping[str, object]) -> None: ...
    def dataset(self, name: str, path: str | Path, sha256: str, context: str) -> None: ...
    def artifact(self, path: str | Path, folder: str = "") -> None: ...
    def tag(self, name: str, value: object) -> None: ...


class MlflowRun:
    """A run in an MLflow store. Made by open_run and open_pipeline_run.

    store: the store's name (see store_name). process: tags of this process, by which the
    run is known as ours.
    """

    def __init__(self, client: Any, run_id: str, store: str, process: Mapping[str, str]) -> None:
        self.run_id = run_id
        self._warned: set[str] = set()
        about = {"run_id": run_id, "store": store, "process": dict(process)}
        self._journal = self._new_journal(about)
        self._delivery = Delivery(client, self._journal, self._warn)
        self._sender = Sender(self._journal, self._delivery, self._complain)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        values = {}
        for name, value in metrics.items():
            try:
                values[safe_name(name)] = float(value)
            except (TypeError, ValueError):
                self._warn(f"metric {name}", f"{value!r} is not a number")
        self._put("metrics", time=_now_ms(), step=int(step), values=values)

    def params(self, values: Mapping[str, object]) -> None:
        texts = {
            safe_name(name): text_of(value)[:_PARAM_CHARACTERS] for name, value in values.items()
        }
        self._put("params", values=texts)

    def dataset(self, name: str, path: str | Path, sha256: str, context: str) -> None:
        uri = str(path)
        source_type = urlsplit(uri).scheme or "local"
        if source_type == "local":
            uri = str(Path(uri).absolute())
        dataset = {
            "name": text_of(name),
            "digest": sha256[:_DIGEST_CHARACTERS],  # the whole one is the tag
            "source_type": source_type,
            "source": text_of({"uri": uri}),
        }
        tags = {"mlflow.data.context": context, "sha256": sha256}
        self._put("dataset", dataset=dataset, tags=tags)

    def artifact(self, path: str | Path, folder: str = "") -> None:
        try:
            kept = self._journal.keep(Path(path))
        except OSError as error:
            self._warn("artifacts", f"{type(error).__name__}: {first_line(error)}")
        else:
            self._put("artifact", path=kept, folder=folder)

    def tag(self, name: str, value: object) -> None:
        self._put("tag", name=name, value=text_of(value)[:_TAG_CHARACTERS])

    def end(self, status: str, reason: str = "") -> None:
        """Close the run as FINISHED, FAILED or KILLED: the last thing that is told of it."""
        if reason:
            self.tag(ERROR_TAG, reason)
        now = _now_ms()
        is_written = self._put("status", status=status, time=now)
        is_killed = status == "KILLED"
        patience = _PATIENCE_OF_A_KILLED_SECONDS if is_killed else _PATIENCE_SECONDS
        if not self._sender.finish(patience):
            _logger.warning(
                "MLflow run %s: MLflow did not answer within %.0f seconds. What it was not told "
                "lies in %s; the next ytrainer command that uses this MLflow delivers it, such as "
                "`ytrainer registry list`.",
                self.run_id,
                patience,
                self._journal.folder,
            )
        elif not is_written:  # a full disk: MLflow can be told all the same
            try:
                self._delivery.end(status, now)
            except Exception as error:  # whatever MLflow or the network may raise
                self._warn("the status", f"{type(error).__name__}: {first_line(error)}")

    def _new_journal(self, about: Mapping[str, Any]) -> Journal:
        try:
            return Journal.create(about)
        except OSError as error:
            folder = Path(tempfile.mkdtemp(prefix="ytrainer-tracking."))
            self._say(
                "journal",
                f"MLflow run {self.run_id}: what waits for MLflow is kept in {folder} and is not "
                f"delivered after this process, since YTRAINER_HOME failed ({first_line(error)})",
            )
            return Journal.create(about, folder)

    def _put(self, kind: str, **fields: Any) -> bool:
        try:
            self._sender.put(kind, **fields)
        except OSError as error:
            self._warn(kind, f"{type(error).__name__}: {first_line(error)}")
            return False
        return True

    def _complain(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {first_line(error)}"
        kept = f"It is kept in {self._journal.folder} until MLflow takes it"
        self._say("outage", f"MLflow run {self.run_id}: not recorded yet ({reason}). {kept}")

    def _warn(self, what: str, reason: str) -> None:
        self._say(what, f"MLflow run {self.run_id}: {what} not recorded ({reason})")

    def _say(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning("%s. The work goes on; this is said once.", message)


def _now_ms() -> int:
    return int(time.time() * 1000)
