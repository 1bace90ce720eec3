"""One case of the preference benchmark, alone in its process.

python -m benchmarks.kto_case --case '{"system": "generated", ...}'     as benchmarks.kto starts it
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import kto_loss, kto_speed, measure
from benchmarks.kto_methods import (
    ANSWERS_PER_STEP,
    LONGEST,
    METHODS,
    Method,
    rows_of,
    tune,
)
from benchmarks.kto_tasks import TASKS, feedback, habits, questions, shares
from benchmarks.measure import BenchmarkError, Case, Figures

if TYPE_CHECKING:
    from ytrainer_core.preference.rows import PreferenceRow

START_SEED = 1000
START_ANSWERS, START_EPOCHS, START_RATE = 480, 10, 1e-3
START_GENERAL = 2400
"""How the start model of a generated task is made of the base: SFT of all weights, with so many
rows of the base's own text between the answers, so that it forgets little."""

ANSWER_TOKENS = 40
"""Tokens generated at most; the longest right answer has about half as many."""

BATCH_TOKENS = 8192
KTO_FILE, DPO_FILE = "kto_en_demo.json", "dpo_en_demo.json"


def measure_case(case: Case) -> Figures:
    """Do what the case's `system` names."""
    systems: dict[str, Callable[[Case], Figures]] = {
        "base": make_base,
        "start": make_start,
        "generated": measure_generated,
        "real": measure_real,
        "loss": kto_loss.measure_loss,
        "speed": measure_speed,
    }
    return systems[case["system"]](case)


def make_base(case: Case) -> Figures:
    """{"base": the demo's base model, "general", "replay": held-out text and what it has read}."""
    from ytrainer_core.config import TrackingConfig
    from ytrainer_core.demo.resources import locate

    untracked = TrackingConfig(enabled=False)
    return {
        "base": locate("demo:base", untracked),
        "general": locate("demo:general"),
        "replay": locate("demo:pretrain"),
    }


def make_start(case: Case) -> Figures:
    """{"start": a model that has the behaviour in about half of its answers}."""
    from ytrainer_core.preference.rows import PreferenceRow

    model, tokenizer = _load(case["base"])
    records = habits(TASKS[case["task"]], START_ANSWERS, START_SEED)
    answers = rows_of(records, tokenizer, pairs=False)
    texts = [row["input_ids"][:LONGEST] for row in _texts(case["replay"], tokenizer)]
    replayed = [PreferenceRow("", ids[:1], ids[1:], True) for ids in texts[:START_GENERAL]]
    rows = [*answers * START_EPOCHS, *replayed]
    tune(
        model,
        tokenizer,
        rows,
        Method("liked"),
        learning_rate=START_RATE,
        steps=len(rows) // ANSWERS_PER_STEP,
        seed=START_SEED,
        rank=0,
    )
    model.save_pretrained(case["folder"])
    tokenizer.save_pretrained(case["folder"])
    return {"start": case["folder"]}


def measure_generated(case: Case) -> Figures:
    """{"before": figures, "after": of each of the case's runs}; figures: behaviour, right, general.

    A run is [method, learning rate]; all of a case learn from the answers of its seed.
    """
    task, seed = TASKS[case["task"]], case["seed"]
    asked = questions(case["held_out"], seed, held_out=True)
    model, tokenizer = _load(case["start"])
    general = _texts(case["general"], tokenizer)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        for question in asked
    ]

    def figures(model: Any) -> Figures:
        from ytrainer_core.evaluation.generate import generate

        answers = generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=ANSWER_TOKENS,
            batch_tokens=BATCH_TOKENS,
        )
        behaviour, right = shares(task, asked, answers)
        return {"behaviour": behaviour, "right": right, "general": _mean_nll(model, general)}

    before = figures(model)
    after = []
    for name, rate in case["runs"]:
        method = METHODS[name]
        records = feedback(task, method.shape, case["answers"], seed)
        rows = rows_of(records, tokenizer, pairs=method.loss == "dpo")
        after.append(figures(_tuned(case, case["start"], rows, name, rate)))
    return {"before": before, "after": after}


def measure_real(case: Case) -> Figures:
    """The same for real rows; figures: accuracy, margin (nats per answer), general."""
    from ytrainer_core.evaluation.preferences import Preferences, answer_logps, preference_scores

    model, tokenizer = _load(case["base"])
    general = _texts(case["general"], tokenizer)
    data = Path(case["data"])
    known, held_out = split_rows(
        _file_rows(data / KTO_FILE, tokenizer, pairs=False), case["held_out"], case["seed"]
    )
    exam = Preferences([row.trained() for row in held_out], _liked(held_out), paired=False)

    def logps(model: Any) -> Any:
        return answer_logps(model, exam, max_length=LONGEST, batch_tokens=BATCH_TOKENS)

    def preferred(found: Any) -> Figures:
        scores = preference_scores(found - reference, exam.liked, paired=False)
        return {name: scores[f"preference_{name}"].value for name in ("accuracy", "margin")}

    reference = logps(model)
    after = []
    for name, rate in case["runs"]:
        rows = known
        if METHODS[name].loss == "dpo":
            rows = _file_rows(data / DPO_FILE, tokenizer, pairs=True)
        rows = chosen_rows(rows, METHODS[name], case["answers"], case["seed"])
        tuned = _tuned(case, case["base"], rows, name, rate)
        after.append(
            preferred(logps(tuned)) | {"general": _mean_nll(tuned, general), "rows": len(rows)}
        )
    before = preferred(reference) | {"general": _mean_nll(model, general)}
    return {"before": before, "after": after}


def split_rows(
    rows: Sequence[PreferenceRow], held_out: int, seed: int
) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """(rows to learn from, `held_out` rows, half of them liked); no prompt is in both."""
    shuffled = random.Random(seed).sample(rows, len(rows))
    asked = [row for label in (True, False) for row in _of(shuffled, label, held_out // 2)]
    prompts = {tuple(row.prompt_ids) for row in asked}
    return [row for row in shuffled if tuple(row.prompt_ids) not in prompts], asked


def chosen_rows(
    rows: Sequence[PreferenceRow], method: Method, answers: int, seed: int
) -> list[PreferenceRow]:
    """`answers` rows, half of them liked; whole pairs for DPO; for SFT the liked half alone."""
    if method.loss == "dpo":
        pairs = random.Random(seed).sample(range(len(rows) // 2), answers // 2)
        return [rows[2 * pair + which] for pair in pairs for which in (0, 1)]
    liked = _of(rows, True, answers // 2)
    return liked if method.shape == "liked" else [*liked, *_of(rows, False, answers // 2)]


def measure_speed(case: Case) -> Figures:
    """Seconds per step over real rows."""
    _, tokenizer = _load(case["base"])
    rows = _file_rows(Path(case["data"]) / KTO_FILE, tokenizer, pairs=False)
    rows = chosen_rows(rows, METHODS["KTO"], case["steps"] * ANSWERS_PER_STEP, 0)
    return kto_speed.measure_speed(case, tokenizer, rows)


def _of(rows: Sequence[PreferenceRow], label: bool, number: int) -> list[PreferenceRow]:
    found = [row for row in rows if row.label is label][:number]
    if len(found) < number:
        raise BenchmarkError(
            f"{len(found)} of {number} rows with label {label} are left; ask for fewer --real-rows"
        )
    return found


def _file_rows(file: Path, tokenizer: Any, *, pairs: bool) -> list[PreferenceRow]:
    """The rows of a file whose prompt leaves room for an answer."""
    from ytrainer_core.config import DataConfig
    from ytrainer_core.data.prepare import prepare_corpus

    config = DataConfig(
        train=(str(file),),
        purpose="preference" if pairs else "kto",
        validation_fraction=0.0,
        max_length=LONGEST,
        on_too_long="truncate",
        max_dropped=1.0,  # a prompt that fills LONGEST is quarantined
    )
    with tempfile.TemporaryDirectory() as scratch:
        corpus = prepare_corpus(config, Path(scratch) / "corpus", tokenizer=tokenizer, seed=0)
        return rows_of(corpus.train, tokenizer, pairs=pairs)


def _tuned(case: Case, folder: str, rows: Sequence[PreferenceRow], name: str, rate: float) -> Any:
    model, tokenizer = _load(folder)
    return tune(
        model,
        tokenizer,
        rows,
        METHODS[name],
        learning_rate=rate,
        steps=case["epochs"] * case["answers"] // ANSWERS_PER_STEP,
        seed=case["seed"],
    )


def _load(folder: str) -> tuple[Any, Any]:
    from ytrainer_core.config import ModelConfig
    from ytrainer_core.training.model import load_model, load_tokenizer

    return load_model(Path(folder), ModelConfig(name_or_path=folder)), load_tokenizer(Path(folder))


def _texts(file: str, tokenizer: Any) -> list[dict[str, list[int]]]:
    """The documents of a file, tokenized; every token is trained."""
    import json

    from ytrainer_core.data.tokenize import tokenize_rows

    lines = Path(file).read_text(encoding="utf-8").splitlines()
    found = tokenize_rows(
        [([], json.loads(line)["text"]) for line in lines],
        tokenizer,
        train_on="all_turns",
        system_prompt="",
    )
    return [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in found]


def _mean_nll(model: Any, rows: Sequence[dict[str, list[int]]]) -> float:
    from ytrainer_core.scoring.signals import mean_nll

    return mean_nll(model, rows, max_length=LONGEST, batch_tokens=BATCH_TOKENS)


def _liked(rows: Sequence[PreferenceRow]) -> Any:
    import numpy as np

    return np.array([row.label for row in rows])


if __name__ == "__main__":
    measure.answer(measure_case)
