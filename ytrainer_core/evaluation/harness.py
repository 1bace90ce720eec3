"""Tasks of lm-evaluation-harness, by name, or YAML files of one's own."""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.evaluation.intervals import Estimate, RowValues, row_means
from ytrainer_core.objectives.evaluating import evaluating

_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "ter")
"""What the names of those of the harness's metrics end in that are better when lower."""

_PLAIN = "none"
"""What the harness calls an answer that went through no filter."""

_STDERRS = 1.959964
"""Standard errors on either side of a value that hold 95 % of a normal distribution."""


def lower_is_better(name: str) -> bool:
    """Whether a metric of `lm_eval_metrics` is better when it is lower."""
    return name.endswith(tuple(f"_{ending}" for ending in _LOWER_IS_BETTER))


def lm_eval_metrics(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    folder: str = "",
    limit: int = 0,
    batch_size: int = 1,
    max_length: int = 0,
) -> dict[str, RowValues | Estimate]:
    """Values of the tasks as TASK_METRIC (TASK_METRIC_FILTER where the task filters answers).

    folder: with YAML files of further tasks. limit: documents of a task at most, 0 for all.
    max_length: tokens read of a document at most, 0 for what the model allows. A metric that is
    the mean over documents is given for each of them, so that models can be compared in pairs;
    another one with a 95 % interval from the harness's standard error, without width where the
    harness gives none. Prompts are the tasks' own, without chat template.
    Raises ConfigError where the harness is not installed or a task or the folder is not there, and
    DataError where a task's data cannot be read.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError(
            f"evaluate.lm_eval: lm-evaluation-harness cannot be imported ({error}). "
            "Install it: pip install 'ytrainer[lm-eval]'"
        ) from error
    manager, names = _found(tasks, folder)
    with _quiet(), _own_randomness(), evaluating(model):
        wrapped = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length or None,
        )
        try:
            found = lm_eval.simple_evaluate(
                wrapped,
                tasks=names,
                task_manager=manager,
                limit=limit or None,
            )
        except OSError as error:
            raise DataError(
                f"evaluate.lm_eval: the data of {', '.join(names)} cannot be read ({error}). Tasks "
                "of the harness download theirs from the Hugging Face hub; without it, put YAML "
                "files with data of your own into evaluate.lm_eval_folder."
            ) from error
    return _metrics(found, names)


def _found(tasks: Sequence[str], folder: str) -> tuple[Any, list[str]]:
    """(the harness's TaskManager, names of tasks that the patterns in `tasks` stand for)."""
    from lm_eval.tasks import TaskManager

    if folder and not Path(folder).expanduser().is_dir():
        raise ConfigError(
            f"evaluate.lm_eval_folder: {folder} is no folder (looked in {Path.cwd()}). Correct it."
        )
    path = str(Path(folder).expanduser()) if folder else None
    unknown = list(tasks)
    manager = None
    for defaults in (False, True) if folder else (True,):  # its own take seconds to list
        manager = TaskManager(include_path=path, include_defaults=defaults)
        matches = {task: manager.match_tasks([task]) for task in tasks}
        unknown = [task for task, names in matches.items() if not names]
        if not unknown:
            return manager, sorted({name for names in matches.values() for name in names})
    assert manager is not None
    raise ConfigError(*(_unknown(task, manager.all_tasks) for task in unknown))


def _unknown(task: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(task, known, n=1)
    remedy = f"Did you mean '{near[0]}'?" if near else "`lm-eval ls tasks` lists all."
    return f"evaluate.lm_eval: there is no task '{task}'. {remedy}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Of the harness's log errors alone, since it warns of what is meant here: a loaded model.

    Its progress bars too only where there is a terminal.
    """
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.ExitStack() as stack:
            if not sys.stderr.isatty():
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """The harness seeds every generator; what others draw goes on as if it had not."""
    plain, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)


def _metrics(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, RowValues | Estimate]:
    """What was asked for: groups as a whole, without their parts; of tags, every task."""
    results = found["results"]
    kept = [name for name in names if name in results]
    if len(kept) < len(names):
        kept = list(results)
    metrics: dict[str, RowValues | Estimate] = {}
    for task in kept:
        for key, value in results[task].items():
            metric, comma, way = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = "_".join([task, metric, *[way] * (way != _PLAIN)])
            metrics[re.sub(r"\W", "_", name)] = _of_documents(
                found["samples"].get(task, ()), metric, way, float(value)
            ) or _with_error(results[task], metric, way)
    return metrics


def _of_documents(
    samples: Sequence[Mapping[str, Any]], metric: str, way: str, value: float
) -> RowValues | None:
    """The metric of each document, in their order; None where `value` is not the mean of that."""
    own = sorted(
        (sample for sample in samples if sample["filter"] == way),
        key=lambda sample: int(sample["doc_id"]),
    )
    if not own or not all(isinstance(sample.get(metric), int | float) for sample in own):
        return None
    rows = row_means([sample[metric] for sample in own])
    return rows if math.isclose(rows.value, value, rel_tol=1e-9) else None


def _with_error(result: Mapping[str, Any], metric: str, way: str) -> Estimate:
    value, error = float(result[f"{metric},{way}"]), result.get(f"{metric}_stderr,{way}")
    reach = _STDERRS * error if isinstance(error, int | float) and np.isfinite(error) else 0.0
    return Estimate(value, value - reach, value + reach, int(result.get("sample_len") or 0))
