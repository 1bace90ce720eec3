"""Shards on the way into a corpus: by one process or several, cut off or not, the same corpus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ytrainer_core.config import DataConfig
from ytrainer_core.data import prepare_corpus, shards, staging, workers
from ytrainer_core.data.corpus import read_quarantine
from ytrainer_core.data.staging import ascending_runs
from ytrainer_core.data.tokenize import tokenize_dataset
from ytrainer_core.errors import DataError
from ytrainer_core.files import home

Write = Callable[..., str]


def rows(count: int) -> list[Any]:
    made: list[Any] = [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(count)]
    made[3] = "{broken"
    made[5] = made[4]
    made[7] = {"question": "question 6", "answer": "another"}
    return made


def prepare(folder: Path, tokenizer: Any, path: str, **knobs: Any) -> Any:
    config = DataConfig.model_validate({"train": path, "max_dropped": 1.0, **knobs})
    return prepare_corpus(config, folder / "corpus", tokenizer=tokenizer, seed=1)


def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SHARD_ROWS", 10)


@pytest.mark.parametrize("count", [0, 2], ids=["threads", "processes"])
def test_several_workers_make_the_same_corpus_and_the_same_tokens(
    count: int, tmp_path: Path, jsonl: Write, marked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers, "THREADS", 4)
    path = jsonl(rows(95))
    tokens = []
    corpora = []
    for number in (1, count):
        monkeypatch.setenv("YTRAINER_HOME", str(tmp_path / f"home{number}"))
        corpora.append(prepare(tmp_path / str(number), marked, path, workers=number))
        files = (home() / "cache" / "tokens").glob("*.arrow")
        tokens.append({file.name: file.read_bytes() for file in files})
    alone, together = corpora
    assert alone.manifest["sha256"] == together.manifest["sha256"]
    assert alone.manifest["counts"] == together.manifest["counts"]
    assert list(read_quarantine(alone.folder)) == list(read_quarantine(together.folder))
    assert list(alone.train["origin"]) == list(together.train["origin"])
    assert tokens[0] == tokens[1] != {}


def test_the_tokens_are_written_along_and_are_those_of_the_rows(
    tmp_path: Path, jsonl: Write, marked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    config = DataConfig(train=(jsonl(rows(35)),), max_dropped=1.0, validation_fraction=0.2)
    corpus = prepare_corpus(config, tmp_path / "corpus", tokenizer=marked, seed=1)
    written = sorted((home() / "cache" / "tokens").glob("*.arrow"))
    along = [
        tokenize_dataset(s, marked, config).to_dict() for s in (corpus.train, corpus.validation)
    ]
    assert sorted((home() / "cache" / "tokens").glob("*.arrow")) == written  # found, not made anew
    for file in written:
        file.unlink()
    anew = [
        tokenize_dataset(s, marked, config).to_dict() for s in (corpus.train, corpus.validation)
    ]
    assert along == anew


def test_a_preparation_that_was_killed_goes_on_with_its_shards(
    tmp_path: Path, jsonl: Write, marked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    path = jsonl(rows(95))
    marked.save_pretrained(tmp_path / "tokenizer")
    code = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from transformers import AutoTokenizer\n"
        "from ytrainer_core.config import DataConfig\n"
        "from ytrainer_core.data import prepare_corpus, staging\n"
        "from ytrainer_core.data.shards import Checker\n"
        "staging.SHARD_ROWS = 10\n"
        "write = Checker.write\n"
        "written = []\n"
        "def slow(*args):\n"
        "    write(*args); written.append(1); time.sleep(60 if len(written) > 5 else 0.3)\n"
        "Checker.write = slow\n"
        "config = DataConfig.model_validate(json.loads(sys.argv[1]))\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[3])\n"
        "prepare_corpus(config, Path(sys.argv[2]), tokenizer=tokenizer, seed=1)\n"
    )
    knobs = {"train": path, "max_dropped": 1.0}
    words = [json.dumps(knobs), str(tmp_path / "c" / "corpus"), str(tmp_path / "tokenizer")]
    with subprocess.Popen([sys.executable, "-c", code, *words], env={**os.environ}) as process:
        deadline = time.monotonic() + 60
        while len(list((home() / "cache" / "staging").glob("*/*.arrow"))) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    kept = len(list((home() / "cache" / "staging").glob("*/*.arrow")))
    assert 4 <= kept < 10 and not (tmp_path / "c" / "corpus").exists()
    written: list[Path] = []
    write = shards.Checker.write

    def counted(self: Any, source: str, raws: Any, to: Path) -> None:
        written.append(to)
        write(self, source, raws, to)

    monkeypatch.setattr(shards.Checker, "write", counted)
    saved = type(marked).from_pretrained(tmp_path / "tokenizer")
    corpus = prepare(tmp_path / "c", saved, path)
    assert len(written) == 10 - kept
    assert not list((home() / "cache" / "staging").glob("*/*.arrow"))
    monkeypatch.setenv("YTRAINER_HOME", str(tmp_path / "other"))
    assert prepare(tmp_path / "d", saved, path).manifest["sha256"] == corpus.manifest["sha256"]


def test_nothing_is_left_of_a_finished_preparation(
    tmp_path: Path, jsonl: Write, marked: Any
) -> None:
    prepare(tmp_path, marked, jsonl(rows(20)))
    assert not list((home() / "cache" / "staging").glob("*/"))


def test_the_first_row_of_each_shape_is_shown_where_a_file_mixes_them(
    tmp_path: Path, jsonl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    mixed = [*rows(12), {"text": "a document"}, *rows(12)[:3], {"prompt": "p", "completion": "c"}]
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, None, jsonl(mixed))
    for part in ("line 1 ", "line 13 ", "line 17 ", "question 0", "a document", "3 shapes"):
        assert part in str(caught.value)


def test_a_file_of_another_name_is_read_anew_though_it_holds_the_same(
    tmp_path: Path, jsonl: Write
) -> None:
    bad = [{"question": "q", "answer": ""}, {"question": "q", "answer": "a"}]
    folder = tmp_path / "corpus-files"
    folder.mkdir()
    for name in ("one.jsonl", "two.jsonl"):
        Path(jsonl(bad)).replace(folder / name)
        with pytest.raises(DataError, match=name):  # its shards stay for the next attempt
            prepare(tmp_path / "made", None, str(folder), max_dropped=0.1)
        (folder / name).unlink()


def test_near_leaks_are_found_where_near_duplicates_are_not_looked_for(
    tmp_path: Path, jsonl: Write
) -> None:
    long = " ".join(f"word {n}" for n in range(60))
    train = jsonl([{"question": "q 1", "answer": f"{long} one"}])
    held_out = jsonl([{"question": "q 2", "answer": f"{long} two"}], "v.jsonl")
    rules = {"near_duplicate": "off"}
    corpus = prepare(tmp_path, None, train, validation=held_out, rules=rules)
    assert corpus.manifest["counts"]["rules"] == {"near_leakage": 1}


def test_every_row_is_read_once_whatever_the_shard_size(
    tmp_path: Path, jsonl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(rows(30))
    whole = prepare(tmp_path / "a", None, path)
    monkeypatch.setattr(staging, "SHARD_CHARACTERS", 1)
    assert prepare(tmp_path / "b", None, path).manifest["counts"] == whole.manifest["counts"]


def test_ascending_runs() -> None:
    assert list(ascending_runs(np.array([1, 2, 2, 3, 1]))) == [(0, 2), (2, 4), (4, 5)]
    assert list(ascending_runs(np.array([], np.int64))) == []
