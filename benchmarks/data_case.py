"""One case of the data benchmark, alone in its process: from a file to tokens, once.

python -m benchmarks.data_case --case '{"system": "ours", ...}'     as benchmarks.data starts it
"""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Case, Figures

CORES = 2
"""Processor cores of every case, and processes of the peer; ours counts the cores itself."""

VOCABULARY = 4096
SAMPLE_ROWS = 5_000
"""Rows that the tokenizer is learned from."""

SAMPLE_SECONDS = 0.2
MAP_BATCH = 1000
IGNORED = -100


# --- rows ----------------------------------------------------------------------------------------

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jonas",
    "Karin", "Leo", "Maria", "Nils", "Olga", "Paul", "Rosa", "Simon", "Tina", "Victor", "Ahmed",
    "Mei", "Priya", "Tomas",
)  # fmt: skip
NOUNS = (
    "engine", "letter", "garden", "invoice", "bridge", "sensor", "contract", "recipe",
    "village", "battery", "lecture", "harbour", "forecast", "cable", "museum", "printer",
    "vaccine", "railway", "budget", "orchard", "satellite", "tenant", "keyboard", "island",
    "theatre", "compass", "warehouse", "bicycle", "glacier", "curriculum", "pension", "turbine",
    "novel", "parliament", "filter", "laboratory", "ticket", "chimney", "password", "orchestra",
)  # fmt: skip
VERBS = (
    "repairs", "describes", "measures", "delivers", "replaces", "compares", "paints", "borrows",
    "explains", "collects", "designs", "cancels", "translates", "weighs", "protects",
    "inspects", "stores", "announces", "divides", "improves", "rents", "follows", "publishes",
    "questions",
)  # fmt: skip
QUALITIES = (
    "old", "reliable", "narrow", "expensive", "public", "broken", "seasonal", "quiet",
    "digital", "northern", "temporary", "heavy", "transparent", "empty", "famous", "wooden",
    "shared", "late", "careful", "electric",
)  # fmt: skip
PLACES = (
    "Lund", "Bergen", "Turin", "Ghent", "Porto", "Basel", "Krakow", "Cork", "Graz", "Lyon",
    "Bremen", "Osaka", "Quito", "Accra",
)  # fmt: skip
TASKS = (
    "Summarize the following note in two sentences.",
    "Answer the question with the facts that are given.",
    "Rewrite this as a polite message to a customer.",
    "Which of these statements can be checked, and how?",
    "Explain to a new colleague what has happened here.",
    "Make a short list of what has to be done next.",
)
SYLLABLES = [a + b for a in (*"bdfgklmnprstvz", "br", "st", "tr") for b in "aeiou"]
COINED = 20_000
"""Further words, made of syllables and drawn the more seldom the longer they are in the list, so
that a tokenizer meets words it has no token for."""

SENTENCES = 13
"""Of a row, about: a fifth of them in the question. A row is then about 1 kB of JSON."""


def rows(count: int, seed: int = 0) -> Iterator[str]:
    """JSON lines of `count` conversations that all differ. Fewer rows are the first of more."""
    rng = random.Random(seed)
    coined = [
        "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))).capitalize() for _ in range(COINED)
    ]
    for number in range(count):
        asked = " ".join(_sentence(rng, coined) for _ in range(rng.randint(2, 4)))
        said = " ".join(
            _sentence(rng, coined) for _ in range(rng.randint(SENTENCES - 5, SENTENCES - 1))
        )
        question = f"{rng.choice(TASKS)} (Case {number})\n\n{asked}"
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": said},
        ]
        yield json.dumps({"messages": messages}) + "\n"


def _sentence(rng: random.Random, coined: Sequence[str]) -> str:
    pick = rng.choice
    rare = coined[int(len(coined) * rng.random() ** 3)]
    return pick(_PATTERNS)(pick, rng.randint, rare)


_Pick = Callable[[Sequence[str]], str]
_Count = Callable[[int, int], int]
_PATTERNS: tuple[Callable[[_Pick, _Count, str], str], ...] = (
    lambda pick, n, rare: (
        f"{pick(NAMES)} {pick(VERBS)} the {pick(QUALITIES)} {pick(NOUNS)} of {rare} in "
        f"{pick(PLACES)}, and it costs {n(2, 9999)} euros."
    ),
    lambda pick, n, rare: (
        f"In {n(1850, 2030)} the {pick(NOUNS)} near {pick(PLACES)} was {pick(QUALITIES)}, but "
        f"{rare} {pick(VERBS)} a {pick(NOUNS)} there."
    ),
    lambda pick, n, rare: (
        f"Whoever {pick(VERBS)} a {pick(QUALITIES)} {pick(NOUNS)} needs {n(2, 60)} days, "
        f"{rare} and the {pick(NOUNS)}."
    ),
    lambda pick, n, rare: (
        f"The {pick(NOUNS)} and the {pick(NOUNS)} are {pick(QUALITIES)}: {pick(NAMES)} from "
        f"{pick(PLACES)} {pick(VERBS)} {n(3, 800)} of them for {rare}."
    ),
    lambda pick, n, rare: (
        f"{rare} is {n(1, 99)}.{n(0, 9)} km from {pick(PLACES)}, so {pick(NAMES)} {pick(VERBS)} "
        f"the {pick(NOUNS)}."
    ),
)


# --- cases ---------------------------------------------------------------------------------------


def measure_case(case: Case) -> Figures:
    """Run one case. Returns seconds, processor seconds, peaks of memory in bytes, and counts."""
    folder = Path(case["folder"])
    if case["system"] == "write":
        return _write(folder, case["rows"])
    home = folder / "work"
    os.environ["YTRAINER_HOME"] = str(home)
    system = {"ours": _ours, "peer": _peer}[case["system"]]
    try:
        run = system(folder, home)
        with Watch() as watch:
            started = time.monotonic()
            made = run()
            seconds = time.monotonic() - started
        found = {"seconds": seconds, "cpu": watch.cpu, "peak": watch.peak, "own": watch.own}
        return found | _count(made)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _write(folder: Path, count: int) -> Figures:
    """The corpus, and the tokenizer where there is none yet."""
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(rows(count))
    if not (folder / "tokenizer").exists():
        from ytrainer_core.config import ArchitectureConfig
        from ytrainer_core.training.scratch import train_tokenizer

        sample = (json.loads(line)["messages"] for line in rows(SAMPLE_ROWS))
        texts = (message["content"] for messages in sample for message in messages)
        tokenizer = train_tokenizer(texts, ArchitectureConfig(vocab_size=VOCABULARY))
        tokenizer.save_pretrained(folder / "tokenizer")
    return {"bytes": path.stat().st_size}


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def _ours(folder: Path, home: Path) -> Callable[[], Sequence[Any]]:
    """Imports and the tokenizer first; what is returned is timed."""
    import datasets  # noqa: F401 - the peer's imports are not timed either

    from ytrainer_core.config import DataConfig
    from ytrainer_core.data import prepare_corpus, tokenize_dataset

    tokenizer = _tokenizer(folder)
    config = DataConfig(train=(str(folder / "rows.jsonl"),))

    def run() -> Sequence[Any]:
        corpus = prepare_corpus(config, home / "corpus", tokenizer=tokenizer, seed=0)
        splits = (corpus.train, corpus.validation)
        return [tokenize_dataset(split, tokenizer, config) for split in splits]

    return run


def _peer(folder: Path, home: Path) -> Callable[[], Sequence[Any]]:
    import datasets

    datasets.disable_progress_bars()
    tokenizer = _tokenizer(folder)

    def run() -> Sequence[Any]:
        found = datasets.load_dataset(
            "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(home)
        )
        tokens = found.map(
            _tokenize,
            batched=True,
            batch_size=MAP_BATCH,
            num_proc=CORES,
            remove_columns=found.column_names,
            fn_kwargs={"tokenizer": tokenizer},
        )
        return [tokens]

    return run


def _tokenize(batch: dict[str, list[Any]], tokenizer: Any) -> dict[str, list[list[int]]]:
    printed = tokenizer.apply_chat_template(
        batch["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    labels = [
        [token if trained else IGNORED for token, trained in zip(ids, mask, strict=True)]
        for ids, mask in zip(printed["input_ids"], printed["assistant_masks"], strict=True)
    ]
    return {"input_ids": printed["input_ids"], "labels": labels}


def _count(made: Sequence[Any]) -> Figures:
    """Rows, tokens and target tokens of tokenized splits."""
    import pyarrow.compute as pc

    found = {"rows": 0, "tokens": 0, "targets": 0}
    for split in made:
        for batch in split.with_format("arrow").iter(MAP_BATCH):
            labels = pc.list_flatten(batch.column("labels"))
            found["rows"] += len(batch)
            found["tokens"] += len(labels)
            found["targets"] += int(pc.sum(pc.not_equal(labels, IGNORED)).as_py() or 0)
    return found


class Watch:
    """What this process and its children need together while the block runs.

    peak: greatest proportional set size, bytes (a page that n processes share counts a n-th in
    each); own: greatest part of it that is no page of a file. cpu: processor seconds, but for what
    a child needed after the last look at it.
    """

    def __init__(self) -> None:
        self.peak = self.own = 0
        self._cpu: dict[int, float] = {}
        self._before = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values()) - self._before

    def __enter__(self) -> Watch:
        self._before = time.process_time()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        this = psutil.Process()
        last = False
        while not last:
            last = self._done.wait(SAMPLE_SECONDS)
            looks = [_look(process) for process in (this, *this.children(recursive=True))]
            self.peak = max(self.peak, sum(size for size, _, _ in looks))
            self.own = max(self.own, sum(own for _, own, _ in looks))
            self._cpu |= {this.pid: time.process_time()} | dict(ids for _, _, ids in looks[1:])


def _look(process: Any) -> tuple[int, int, tuple[int, float]]:
    """(PSS, its part that is no file's, (process id, processor seconds)), zeros once it has ended.

    Memory in bytes; USS for both where the system has no PSS.
    """
    import psutil

    try:
        times = process.cpu_times()
        seconds = (process.pid, times.user + times.system)
        return *_sizes(process), seconds
    except psutil.Error:
        return 0, 0, (-1, 0.0)


def _sizes(process: Any) -> tuple[int, int]:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {words[0]: int(words[1]) * 1024 for words in map(str.split, lines)}
        return sizes["Pss:"], sizes["Pss:"] - sizes.get("Pss_File:", 0)
    except (OSError, KeyError):
        uss = int(process.memory_full_info().uss)
        return uss, uss


def take_cores(count: int) -> None:
    """Leave this process and its children so many cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


if __name__ == "__main__":
    # As it is where nobody sets it: in one process a tokenizer uses all cores, in several one each.
    os.environ.pop("TOKENIZERS_PARALLELISM", None)
    take_cores(CORES)
    measure.answer(measure_case)
