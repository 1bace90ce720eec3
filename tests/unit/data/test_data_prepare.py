"""From files to a corpus: nothing is lost without a trace, and what cannot be trained on stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_examples import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from ytrainer_core.config import DataConfig
from ytrainer_core.data import Corpus, Rejected, load_corpus, prepare_corpus, rewrite_train
from ytrainer_core.data.checks import RULES
from ytrainer_core.data.corpus import read_quarantine, row_schema
from ytrainer_core.errors import DataError

Write = Callable[..., str]


WORDS = " ".join(f"number {n}" for n in range(40))
"""Some 300 characters that repeat nothing."""


def qa(n: int, answer: str | None = None) -> dict[str, str]:
    return {"question": f"question {n}", "answer": f"answer {n}" if answer is None else answer}


def prepare(folder: Path, tokenizer: Any = None, seed: int = 1, **knobs: Any) -> Corpus:
    knobs = {"max_dropped": 1.0, **knobs}
    config = DataConfig.model_validate(knobs)
    return prepare_corpus(config, folder / "corpus", tokenizer=tokenizer, seed=seed)


def origins(split: datasets.Dataset) -> list[int]:
    return [int(origin.rpartition(":")[2]) for origin in split["origin"]]


def rules(corpus: Corpus) -> dict[str, int]:
    return dict(corpus.manifest["counts"]["rules"])


def test_good_rows_stay_in_file_order_and_bad_ones_are_quarantined_with_their_text(
    tmp_path: Path, jsonl: Write
) -> None:
    path = jsonl([qa(1), "{broken", qa(2, " "), qa(3), qa(1), qa(4), qa(4, "no")])
    corpus = prepare(tmp_path, train=path, validation_fraction=0.0)
    assert origins(corpus.train) == [1, 4]
    assert corpus.train[0] == {
        "origin": f"{path}:1",
        "messages": [
            {"role": "user", "content": "question 1", "trained": True},
            {"role": "assistant", "content": "answer 1", "trained": True},
        ],
        "text": "",
        "label": None,
        "rejected": [],
        "extra": "",
    }
    quarantined = [(row.origin, row.rule) for row in read_quarantine(corpus.folder)]
    assert quarantined == [
        (f"{path}:2", "unreadable_row"),
        (f"{path}:3", "empty_answer"),
        (f"{path}:5", "exact_duplicate"),
        (f"{path}:6", "contradicting_answers"),
        (f"{path}:7", "contradicting_answers"),
    ]
    assert corpus.manifest["counts"] == {
        "read": 7,
        "clean": 2,
        "train": 2,
        "validation": 0,
        "general": 0,
        "replay": 0,
        "earlier": 0,
        "quarantined": 5,
        "shapes": {"question_answer": 6},
        "kinds": {"conversation": 2},
        "rules": {
            "unreadable_row": 1,
            "empty_answer": 1,
            "exact_duplicate": 1,
            "contradicting_answers": 2,
        },
    }
    by_origin = {row.origin: row for row in read_quarantine(corpus.folder)}
    assert by_origin[f"{path}:2"].raw == "{broken"
    assert json.loads(by_origin[f"{path}:3"].raw) == qa(2, " ")
    assert f"{path}:1" in by_origin[f"{path}:5"].reason
    assert f"{path}:7" in by_origin[f"{path}:6"].reason


def test_the_first_of_two_files_with_the_same_row_keeps_it(tmp_path: Path, jsonl: Write) -> None:
    one, two = jsonl([qa(1), qa(2)], "one.jsonl"), jsonl([qa(2), qa(3)], "two.jsonl")
    corpus = prepare(tmp_path, train=[one, two], validation_fraction=0.0)
    assert list(corpus.train["origin"]) == [f"{one}:1", f"{one}:2", f"{two}:2"]


def test_training_rows_that_stand_in_validation_are_quarantined(
    tmp_path: Path, jsonl: Write
) -> None:
    held_out = [qa(2, "held out"), qa(8, "a"), qa(8, "b"), qa(9, "")]
    validation = jsonl(held_out, "validation.jsonl")
    corpus = prepare(tmp_path, train=jsonl([qa(1), qa(2), qa(8), qa(9)]), validation=validation)
    # 8 and 9 were quarantined in validation, so they leak nothing.
    assert origins(corpus.train) == [1, 3, 4]
    assert origins(corpus.validation) == [1]
    leaked = next(row for row in read_quarantine(corpus.folder) if row.rule == "leakage")
    assert f"{validation}:1" in leaked.reason


@pytest.mark.parametrize(
    ("rows", "fraction", "least", "most"),
    [(20, 0.1, 1, 5), (4, 0.1, 1, 1), (1, 0.5, 0, 0), (20, 0.0, 0, 0), (2600, 0.5, 1000, 1000)],
)
def test_a_share_of_the_clean_rows_is_held_out(
    tmp_path: Path, jsonl: Write, rows: int, fraction: float, least: int, most: int
) -> None:
    path = jsonl([qa(n) for n in range(rows)])
    corpus = prepare(tmp_path, train=path, validation_fraction=fraction)
    assert least <= len(corpus.validation) <= most
    both = origins(corpus.train) + origins(corpus.validation)
    assert sorted(both) == list(range(1, rows + 1))
    assert origins(corpus.train) == sorted(origins(corpus.train))


def test_the_seed_alone_decides_which_rows_are_held_out(tmp_path: Path, jsonl: Write) -> None:
    path = jsonl([qa(n) for n in range(50)])
    first, again, other = (
        prepare(tmp_path / str(number), seed=seed, train=path)
        for number, seed in enumerate((1, 1, 2))
    )
    assert origins(first.validation) == origins(again.validation)
    assert first.manifest["sha256"] == again.manifest["sha256"]
    assert origins(first.validation) != origins(other.validation)
    assert first.manifest["sha256"] != other.manifest["sha256"]


def test_the_digest_is_of_rows_and_not_of_files(tmp_path: Path, jsonl: Write) -> None:
    def digest(name: str, rows: list[Any]) -> str:
        path = jsonl(rows, f"{name}.jsonl")
        return str(prepare(tmp_path / name, train=path).manifest["sha256"])

    rows = [qa(n) for n in range(5)]
    moved = ["", *(json.dumps(row, indent=None, separators=(",", ":")) for row in rows)]
    assert digest("a", rows) == digest("b", moved)
    assert digest("a", rows) != digest("c", [*rows[:4], qa(4, "changed")])
    assert digest("a", rows) != digest("d", rows[::-1])
    assert digest("e", [{"text": "one"}]) != digest("f", [{"text": "two"}])


def test_sources_are_listed_with_what_they_hold(tmp_path: Path, jsonl: Write) -> None:
    train, general = jsonl([qa(1), qa(2)]), tmp_path / "general.txt"
    general.write_text("a document\n")
    corpus = prepare(tmp_path, train=train, general=str(general))
    sources = corpus.manifest["sources"]
    assert [(s["path"], s["split"], s["bytes"]) for s in sources] == [
        (train, "train", Path(train).stat().st_size),
        (str(general), "general", 11),
    ]
    assert len(sources[0]["sha256"]) == 64
    assert corpus.general[0]["text"] == "a document"
    assert corpus.general[0]["messages"] == []


def test_max_rows_caps_each_split_by_itself(tmp_path: Path, jsonl: Write) -> None:
    train = jsonl([qa(n) for n in range(9)])
    validation = jsonl([qa(n) for n in range(20, 29)], "v.jsonl")
    corpus = prepare(tmp_path, train=train, validation=validation, max_rows=3)
    assert (len(corpus.train), len(corpus.validation)) == (3, 3)
    assert corpus.manifest["counts"]["read"] == 6


def test_documents_are_trained_as_text_and_not_checked_as_conversations(
    tmp_path: Path, jsonl: Write, unmarked: Any
) -> None:
    path = jsonl([{"text": "one"}, {"text": "two"}, {"text": "one"}, {"text": ""}])
    corpus = prepare(tmp_path, unmarked, train=path, validation_fraction=0.0)
    assert list(corpus.train["text"]) == ["one", "two"]
    assert rules(corpus) == {"exact_duplicate": 1, "empty_text": 1}


# --- tokens --------------------------------------------------------------------------------------


def test_long_rows_are_quarantined_or_cut_as_told(
    tmp_path: Path, jsonl: Write, unmarked: Any
) -> None:
    path = jsonl([qa(1), qa(2, WORDS)])
    dropped = prepare(tmp_path / "d", unmarked, train=path, max_length=100, validation_fraction=0.0)
    assert origins(dropped.train) == [1]
    assert rules(dropped) == {"too_long": 1}
    cut = prepare(
        tmp_path / "c",
        unmarked,
        train=path,
        max_length=100,
        validation_fraction=0.0,
        on_too_long="truncate",
    )
    assert origins(cut.train) == [1, 2]
    assert rules(cut) == {"truncated": 1}


def test_a_row_whose_answer_is_cut_off_has_no_trained_token(
    tmp_path: Path, jsonl: Write, unmarked: Any
) -> None:
    long_question = {"question": "x" * 300, "answer": "y"}
    corpus = prepare(
        tmp_path,
        unmarked,
        train=jsonl([qa(1), long_question]),
        max_length=100,
        validation_fraction=0.0,
        on_too_long="truncate",
    )
    assert rules(corpus) == {"no_trained_token": 1}


def test_a_long_general_conversation_is_cut_and_not_quarantined(
    tmp_path: Path, jsonl: Write, unmarked: Any
) -> None:
    general = jsonl([{"question": "x" * 30, "answer": WORDS}], "g.jsonl")
    corpus = prepare(tmp_path, unmarked, train=jsonl([qa(1)]), general=general, max_length=100)
    assert len(corpus.general) == 1
    assert rules(corpus) == {"truncated": 1}


def test_a_long_document_stays_whole_since_whoever_reads_it_splits_it(
    tmp_path: Path, jsonl: Write, unmarked: Any
) -> None:
    path = jsonl([{"text": "x" * 300}], "g.jsonl")
    corpus = prepare(tmp_path, unmarked, train=path, general=path, max_length=100)
    assert (len(corpus.train), len(corpus.general)) == (1, 1)
    assert corpus.train[0]["text"] == "x" * 300
    assert not rules(corpus)


def test_a_row_that_the_template_refuses_is_quarantined_and_the_others_stay(
    tmp_path: Path, jsonl: Write, make_tokenizer: Callable[[str], Any], unmarked: Any
) -> None:
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer = make_tokenizer(picky + unmarked.chat_template)
    path = jsonl([qa(1), {**qa(2), "system": "s"}, qa(3)])
    corpus = prepare(tmp_path, tokenizer, train=path, validation_fraction=0.0)
    assert origins(corpus.train) == [1, 3]
    assert rules(corpus) == {"template_refused": 1}


def test_conversations_need_a_chat_template(
    tmp_path: Path, jsonl: Write, make_tokenizer: Callable[[str | None], Any]
) -> None:
    with pytest.raises(DataError, match="no chat template"):
        prepare(tmp_path, make_tokenizer(None), train=jsonl([qa(1)]))


# --- what stops the stage ------------------------------------------------------------------------


def test_more_than_max_dropped_stops_with_the_rules_and_samples(
    tmp_path: Path, jsonl: Write
) -> None:
    path = jsonl([qa(1), qa(2), qa(3, ""), qa(4, ""), "{"])
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, train=path, max_dropped=0.5)
    message = str(caught.value)
    assert "3 of 5 rows (60%)" in message
    assert "empty_answer 2, unreadable_row 1" in message
    assert f"{path}:3: turn 2 (assistant)" in message
    samples = tmp_path / "corpus" / "quarantine"
    assert str(samples) in message
    assert sorted(file.name for file in samples.iterdir()) == [
        "empty_answer.jsonl",
        "unreadable_row.jsonl",
    ]
    first = json.loads((samples / "empty_answer.jsonl").read_text().splitlines()[0])
    assert first["origin"] == f"{path}:3"
    assert not (tmp_path / "corpus" / "manifest.json").exists()


def test_exactly_max_dropped_passes(tmp_path: Path, jsonl: Write) -> None:
    path = jsonl([qa(1), qa(2), qa(3), qa(4, "")])
    assert len(prepare(tmp_path, train=path, max_dropped=0.25, validation_fraction=0.0).train) == 3


def test_a_corpus_without_a_token_to_train_names_rows(
    tmp_path: Path, jsonl: Write, unmarked: Any
) -> None:
    row = {"question": "x" * 300, "answer": "y"}
    path = jsonl([row, {**row, "answer": "z"}])
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, unmarked, train=path, max_length=100, on_too_long="truncate")
    assert "all 2 labels are masked" in str(caught.value)
    assert f"{path}:1" in str(caught.value)
    assert f"{path}:2" in str(caught.value)


def test_a_corpus_of_which_nothing_is_left_stops_whatever_max_dropped_says(
    tmp_path: Path, jsonl: Write
) -> None:
    with pytest.raises(DataError, match=r"nothing is left.*empty_answer 1, unreadable_row 1"):
        prepare(tmp_path, train=jsonl([qa(1, ""), "{"]), max_dropped=1.0)


def test_on_invalid_fail_lists_every_bad_row(tmp_path: Path, jsonl: Write) -> None:
    path = jsonl([qa(1), qa(2, ""), qa(1)])
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, train=path, on_invalid="fail")
    assert caught.value.faults[0].startswith("2 rows are invalid and data.on_invalid=fail")
    assert caught.value.faults[1].startswith(f"{path}:2: empty_answer: ")
    assert caught.value.faults[2].startswith(f"{path}:3: exact_duplicate: ")


def test_missing_files_of_all_splits_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, train="/no/a.json", validation="/no/b.json", general="/no/c.json")
    assert [fault.split(": ")[0] for fault in caught.value.faults] == [
        "/no/a.json",
        "/no/b.json",
        "/no/c.json",
    ]


def test_no_training_file_at_all_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train names no file"):
        prepare(tmp_path)


# --- invariants ----------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_word = st.sampled_from(["a", "b", " ", "", "\x00", "\ufffd", "\ud800", "é", "x" * 200])
_row = st.one_of(
    st.fixed_dictionaries({"question": _word, "answer": _word}),
    st.fixed_dictionaries({"question": _json, "answer": _json, "system": _json, "tools": _json}),
    st.fixed_dictionaries({"question": _word}),
    _json,
)
_line = st.one_of(
    _row.map(json.dumps),
    _row.map(lambda row: json.dumps(row)[:-1]),
    st.text(alphabet='{}[]",:0aé\x00\u2028', max_size=12),
    st.just("[" * 5000),
    st.just('{"question": ' + "9" * 5000 + "}"),
)


@settings(max_examples=80, deadline=None)
@given(lines=st.lists(_line, min_size=1, max_size=12), tokens=st.booleans())
def test_clean_and_quarantined_rows_are_all_rows_whatever_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, unmarked: Any, lines: list[str], tokens: bool
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    path = folder / "rows.jsonl"
    good = [json.dumps(qa(1)), json.dumps(qa(2))]
    path.write_text("".join(f"{line}\n" for line in [*good, *lines]), encoding="utf-8")
    corpus = prepare(
        folder, unmarked if tokens else None, train=str(path), max_length=100, validation_fraction=0
    )
    counts = corpus.manifest["counts"]
    quarantined = list(read_quarantine(corpus.folder))
    read = 2 + sum(bool(line.strip()) for line in lines)
    assert counts["read"] == read
    assert counts["train"] + counts["quarantined"] == read
    assert len(corpus.train) == counts["train"]
    assert len(quarantined) == counts["quarantined"]
    errors = sum(n for rule, n in counts["rules"].items() if RULES[rule].severity == "error")
    assert errors == counts["quarantined"]
    assert not {row.origin for row in quarantined} & set(corpus.train["origin"])


@pytest.mark.parametrize("rows", [999, 1000, 1001, 2500])
def test_batches_lose_no_row(tmp_path: Path, jsonl: Write, rows: int) -> None:
    path = jsonl([qa(n) for n in range(rows)])
    assert origins(prepare(tmp_path, train=path, validation_fraction=0.0).train) == list(
        range(1, rows + 1)
    )


def test_nothing_is_left_beside_the_corpus_folder(tmp_path: Path, jsonl: Write) -> None:
    runs = tmp_path / "runs"
    prepare(runs, train=jsonl([qa(1), qa(2)]))
    with pytest.raises(DataError):
        prepare(runs, train=jsonl(["{"]))
    assert [file.name for file in runs.iterdir()] == ["corpus"]
    names = {file.name for file in (runs / "corpus").iterdir()} - {"quarantine"}
    assert names == {
        "train.arrow",
        "validation.arrow",
        "general.arrow",
        "replay.arrow",
        "earlier.arrow",
        "quarantine.jsonl",
        "manifest.json",
    }


# --- the corpus folder ---------------------------------------------------------------------------


def test_a_corpus_loads_as_it_was_written(tmp_path: Path, jsonl: Write) -> None:
    corpus = prepare(tmp_path, train=jsonl([qa(n) for n in range(9)]))
    loaded = load_corpus(corpus.folder)
    assert loaded.manifest == corpus.manifest
    assert loaded.train[:] == corpus.train[:]
    assert loaded.validation[:] == corpus.validation[:]
    assert loaded.general.column_names == row_schema().names
    assert len(loaded.general) == 0


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _garble(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("train.arrow", _cut, "train.arrow: the corpus is damaged"),
        ("train.arrow", _garble, "train.arrow: the corpus is damaged"),
        ("validation.arrow", Path.unlink, "validation.arrow: the corpus is damaged"),
        ("quarantine.jsonl", _cut, "quarantine.jsonl: the corpus is damaged"),
        ("manifest.json", _garble, "manifest.json: the corpus is damaged"),
        ("manifest.json", Path.unlink, "is no corpus folder"),
    ],
)
def test_a_damaged_corpus_is_refused_and_named(
    tmp_path: Path, jsonl: Write, name: str, damage: Callable[[Path], None], said: str
) -> None:
    corpus = prepare(tmp_path, train=jsonl([qa(n) for n in range(9)] + ["{"]))
    damage(corpus.folder / name)
    with pytest.raises(DataError, match="ytrainer validate") as caught:
        load_corpus(corpus.folder)
    assert said in str(caught.value)


def test_dropping_training_rows_keeps_the_others_and_adds_to_the_quarantine(
    tmp_path: Path, jsonl: Write
) -> None:
    looping = qa(5, "again and again " * 30)
    path = jsonl([qa(1), qa(2), qa(3), qa(4, ""), looping, qa(6)])
    corpus = prepare(tmp_path, train=path, validation_fraction=0.0)
    assert rules(corpus) == {"empty_answer": 1, "repetition": 1}
    low = Rejected(corpus.train[1]["origin"], "low_quality", "scored 0.1.", "{}")
    smaller = rewrite_train(corpus, tmp_path / "scored", [0, 2, 3, 4], [low])
    assert origins(smaller.train) == [1, 3, 5, 6]
    assert [row.rule for row in read_quarantine(smaller.folder)] == ["empty_answer", "low_quality"]
    counts = smaller.manifest["counts"]
    assert (counts["read"], counts["train"], counts["quarantined"]) == (6, 4, 2)
    assert counts["rules"] == {"empty_answer": 1, "low_quality": 1, "repetition": 1}
    assert smaller.manifest["sources"] == corpus.manifest["sources"]
    assert smaller.manifest["sha256"] != corpus.manifest["sha256"]
    kept_all = rewrite_train(corpus, tmp_path / "same", range(5), [])
    assert kept_all.manifest == corpus.manifest


@pytest.mark.parametrize(("keep", "rejected"), [([0], 0), ([0, 0], 0), ([0, 1], 1)])
def test_dropping_must_account_for_every_training_row(
    tmp_path: Path, jsonl: Write, keep: list[int], rejected: int
) -> None:
    corpus = prepare(tmp_path, train=jsonl([qa(1), qa(2)]), validation_fraction=0.0)
    with pytest.raises(ValueError, match="2 training rows"):
        rewrite_train(corpus, tmp_path / "out", keep, [Rejected("o", "r", "w", "")] * rejected)


@needs_shared
@pytest.mark.parametrize(
    ("name", "knobs", "counts"),
    [
        ("gsm8k_train.jsonl", {"max_rows": 300}, {}),
        ("alpaca_en_demo.json", {}, {"exact_duplicate": 14, "email": 1, "secret": 1, "url": 11}),
        ("identity.json", {}, {"contradicting_answers": 4}),
        ("c4_demo.jsonl", {}, {"replacement_characters": 4, "email": 7, "phone": 4, "url": 10}),
        ("wiki_demo.txt", {}, {"url": 1}),
    ],
)
def test_real_corpora_are_prepared(
    tmp_path: Path, name: str, knobs: dict[str, Any], counts: dict[str, int]
) -> None:
    corpus = prepare(tmp_path, train=str(SHARED / name), max_dropped=0.25, **knobs)
    assert rules(corpus) == counts
    clean = corpus.manifest["counts"]["clean"]
    assert len(corpus.train) + len(corpus.validation) == clean
    assert 0.02 < len(corpus.validation) / clean < 0.25


@needs_shared
def test_a_real_tool_corpus_is_tokenized_with_its_calls_trained(
    tmp_path: Path, unmarked: Any
) -> None:
    from ytrainer_core.data import mask_segments, tokenize_row

    path = SHARED / "glaive_toolcall_en_demo.json"
    corpus = prepare(tmp_path, unmarked, train=str(path), max_rows=20, max_length=16_000)
    row = next(row for row in corpus.train if any(m["role"] == "tool" for m in row["messages"]))
    tokenized = tokenize_row(row["messages"], "", unmarked, train_on="all_turns", system_prompt="")
    said = [text for text, flag in mask_segments(tokenized, unmarked) if flag]
    answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    assert said == [f"{answer}<|im_end|>" for answer in answers]
    assert any(answer.startswith("<tool_call>\n{") for answer in answers)
