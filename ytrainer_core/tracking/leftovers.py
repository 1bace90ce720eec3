"""What processes that are gone could not tell: their records are delivered, their runs ended."""

from __future__ import annotations

import logging
import os
from typing import Any

from ytrainer_core.tracking.delivery import ERROR_TAG, Delivery
from ytrainer_core.tracking.journal import Journal, abandoned, alone, journals
from ytrainer_core.tracking.process import HOST_TAG, host, is_alive
from ytrainer_core.tracking.text import first_line

_VANISHED = "the process vanished (SIGKILL, out of memory)"

_logger = logging.getLogger(__name__)


def deliver_leftovers(client: Any, store: str) -> None:
    """Deliver the journals of dead processes of this home; what fails stays, with a warning.

    A run whose process could not tell how it ended becomes KILLED, unless another
    process has continued it. One process at a time does this; others wait for it.
    """
    root = journals()
    if not root.is_dir() or not os.access(root, os.W_OK):
        return
    with alone(root):
        for journal in abandoned(root, store):
            try:
                _deliver(client, journal)
            except Exception as error:  # whatever MLflow, SQLAlchemy or the network may raise
                _logger.warning(
                    "MLflow run %s: records of a process that is gone could not be delivered "
                    "(%s: %s). They stay in %s; the next command that uses this MLflow tries "
                    "again. Delete the folder to give them up.",
                    journal.about["run_id"],
                    type(error).__name__,
                    first_line(error),
                    journal.folder,
                )
            finally:
                journal.close()


def sweep_dead_runs(client: Any, experiment: str) -> list[str]:
    """End as KILLED the RUNNING runs of an experiment whose process on this host is gone.

    Returns their run ids.
    """
    condition = f"attributes.status = 'RUNNING' and tags.`{HOST_TAG}` = '{host()}'"
    dead = [
        run.info.run_id
        for run in client.search_runs([experiment], condition, max_results=1000)
        if not is_alive(run.data.tags)
    ]
    for run_id in dead:
        _end_as_killed(client, run_id)
    return dead


def _deliver(client: Any, journal: Journal) -> None:
    run_id = journal.about["run_id"]

    def warn(what: str, reason: str) -> None:
        _logger.warning("MLflow run %s: %s not recorded (%s).", run_id, what, reason)

    delivery = Delivery(client, journal, warn)
    delivery.deliver()
    run = client.get_run(run_id)
    if run.info.status == "RUNNING" and delivery.is_ours():
        _end_as_killed(client, run_id)
    elif run.info.status == "FINISHED" and run.data.tags.get(ERROR_TAG) == _VANISHED:
        client.delete_tag(run_id, ERROR_TAG)  # a process without this journal had thought so


def _end_as_killed(client: Any, run_id: str) -> None:
    client.set_tag(run_id, ERROR_TAG, _VANISHED)
    client.set_terminated(run_id, "KILLED")
