"""What the demo's generated corpora promise: the truth behind every answer and every fault."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ytrainer_core.demo import general
from ytrainer_core.demo.corpus import (
    CLEAN_TRAIN_ROWS,
    DEVICES_BY_FAMILY,
    PHRASINGS,
    PLANTED,
    VALIDATION_ROWS,
    house_answer,
    write_domain_corpus,
)
from ytrainer_core.demo.general import write_general_corpus

DOMAIN_FILES = ("train.json", "validation.json", "planted.json")
GENERAL_FILES = ("general_train.jsonl", "general_validation.jsonl")
# Characters of the general corpus in these tests, a tenth of the product's, to stay quick.
FEW_CHARACTERS = 150_000
# A product's name: an invented word, then a letter and a digit.
PRODUCT = re.compile(r"\b[A-Z][a-z]+ [A-Z][1-9]\b")

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "made" / "on demand"
    write_domain_corpus(path)
    return path


@pytest.fixture(scope="module")
def general_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("general")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(general, "TRAIN_CHARACTERS", FEW_CHARACTERS)
        write_general_corpus(path)
    return path


@pytest.fixture(scope="module")
def train(folder: Path) -> Rows:
    return json.loads((folder / "train.json").read_text())


@pytest.fixture(scope="module")
def validation(folder: Path) -> Rows:
    return json.loads((folder / "validation.json").read_text())


@pytest.fixture(scope="module")
def planted(folder: Path) -> list[dict]:
    return json.loads((folder / "planted.json").read_text())


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[str]:
    """train.json as text, so that `lines[n - 1]` is line n."""
    return (folder / "train.json").read_text().split("\n")


def row_at(lines: list[str], line: int) -> dict[str, str]:
    return json.loads(lines[line - 1].removesuffix(","))


def true_answer(message: str) -> str:
    """The answer by the rule, from the message alone: its phrasing found by pattern."""
    for intent, phrasings in PHRASINGS.items():
        for phrasing in phrasings:
            before, after = map(re.escape, phrasing.split("{it}"))
            match = re.search(rf"{before}[A-Z][a-z]+ [A-Z][1-9] (\w+){after}", message)
            if match:
                return house_answer(intent, match[1])
    raise AssertionError(f"no known phrasing in {message!r}")


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(folder, tmp_path):
    write_domain_corpus(tmp_path / "again", seed=0)
    write_domain_corpus(tmp_path / "other", seed=1)
    for name in DOMAIN_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_only_whole_files_are_left_behind(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(DOMAIN_FILES)


def test_counts_are_those_announced(folder, train, validation, planted):
    announced = write_domain_corpus(folder)
    assert len(train) == announced.train_rows == CLEAN_TRAIN_ROWS + sum(PLANTED.values())
    assert len(validation) == announced.validation_rows == VALIDATION_ROWS
    assert Counter(entry["kind"] for entry in planted) == announced.planted_rows == PLANTED
    assert 0.12 <= len(planted) / len(train) <= 0.15


def test_rows_are_plain_alpaca_without_a_mark(train, validation):
    assert {tuple(row) for row in train + validation} == {("instruction", "input", "output")}


def test_line_numbers_name_rows(lines, train):
    assert (lines[0], lines[-2], lines[-1]) == ("[", "]", "")
    assert [row_at(lines, line) for line in range(2, len(lines) - 1)] == train


def test_every_row_that_is_not_planted_follows_the_rule(lines, planted):
    marked = {entry["line"] for entry in planted}
    clean = [row_at(lines, n) for n in range(2, len(lines) - 1) if n not in marked]
    assert len(clean) == CLEAN_TRAIN_ROWS
    assert [row["output"] for row in clean] == [true_answer(row["input"]) for row in clean]


def test_duplicates_and_contradictions_repeat_an_earlier_row(lines, planted):
    for entry in planted:
        if entry["kind"] not in ("duplicate", "contradiction"):
            continue
        row, twin = row_at(lines, entry["line"]), row_at(lines, entry["twin"])
        assert entry["twin"] < entry["line"]
        assert row["input"] == twin["input"]
        assert (row["output"] == twin["output"]) == (entry["kind"] == "duplicate")
        assert twin["output"] == true_answer(twin["input"])


def test_empty_answers_are_blank_and_no_others_are(lines, planted, train):
    empty = [row_at(lines, entry["line"]) for entry in planted if entry["kind"] == "empty"]
    assert all(not row["output"].strip() for row in empty)
    assert sum(not row["output"].strip() for row in train) == len(empty)


def test_wrong_answers_have_the_house_form_but_break_the_rule(lines, planted, train):
    uses = Counter(row["input"] for row in train)
    forms = {
        house_answer(intent, device)
        for intent in PHRASINGS
        for devices in DEVICES_BY_FAMILY.values()
        for device in devices
    }
    for entry in planted:
        if entry["kind"] == "wrong_answer":
            row = row_at(lines, entry["line"])
            assert row["output"] in forms
            assert row["output"] != true_answer(row["input"])
            assert uses[row["input"]] == 1, "a simple rule would see it as a contradiction"


def test_gibberish_is_in_the_answer_or_in_the_message(lines, planted):
    broken = Counter()
    for entry in planted:
        if entry["kind"] == "gibberish":
            row = row_at(lines, entry["line"])
            in_answer = not row["output"].startswith("intent: ")
            in_message = PRODUCT.search(row["input"]) is None
            assert in_answer != in_message
            broken["answer" if in_answer else "message"] += 1
    assert min(broken["answer"], broken["message"]) > 0


def test_validation_is_clean_and_new_in_message_product_and_combination(lines, planted, validation):
    marked = {entry["line"] for entry in planted if entry["kind"] == "gibberish"}
    seen = [row_at(lines, n)["input"] for n in range(2, len(lines) - 1) if n not in marked]
    asked = [row["input"] for row in validation]

    def products(messages: list[str]) -> set[str]:
        return {match.split()[0] for message in messages for match in PRODUCT.findall(message)}

    def requests(messages: list[str]) -> set[str]:
        """Phrasing and device, with the name and the pleasantries taken out."""
        found = set()
        for intent, phrasings in PHRASINGS.items():
            for phrasing in phrasings:
                before, after = map(re.escape, phrasing.split("{it}"))
                pattern = re.compile(rf"{before}[A-Z][a-z]+ [A-Z][1-9] (\w+){after}")
                matches = filter(None, map(pattern.search, messages))
                found |= {f"{intent}/{phrasing}/{match[1]}" for match in matches}
        return found

    assert [row["output"] for row in validation] == [true_answer(message) for message in asked]
    assert not set(asked) & set(seen)
    assert not products(asked) & products(seen)
    assert not requests(asked) & requests(seen)


def test_the_department_depends_on_intent_and_on_family_together():
    def department(intent: str, device: str) -> str:
        fields = dict(part.split(": ") for part in house_answer(intent, device).split(" | "))
        assert (fields["intent"], fields["device"]) == (intent, device)
        return fields["department"]

    assert department("repair", "kettle") == "kitchen workshop"
    assert department("repair", "heater") == "climate workshop"
    assert department("delivery", "kettle") == "post room"
    assert department("delivery", "heater") == "van desk"
    assert department("invoice", "kettle") == department("invoice", "heater") == "billing"
    with pytest.raises(KeyError):
        house_answer("repair", "bicycle")


def test_no_answer_holds_an_invented_name(validation):
    assert not any(PRODUCT.search(row["output"]) for row in validation)


def test_general_text_is_the_same_for_the_same_seed(general_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(general, "TRAIN_CHARACTERS", FEW_CHARACTERS)
    write_general_corpus(tmp_path)
    for name in GENERAL_FILES:
        assert (tmp_path / name).read_bytes() == (general_folder / name).read_bytes()


def test_general_parts_are_disjoint_and_hold_the_same_mixture(general_folder):
    train, held_out = (texts(general_folder / name) for name in GENERAL_FILES)
    assert len(set(train)) == len(train)
    assert not set(train) & set(held_out)
    assert 40_000 <= sum(map(len, held_out)) <= 100_000
    for part in (train, held_out):
        assert any(text.startswith("<|im_start|>user\n") for text in part)
        assert any(re.search(r"^\d+ \+ \d+ = \d+$", text, re.MULTILINE) for text in part)
        assert any(" -> " in text for text in part)


def test_general_arithmetic_is_right(general_folder):
    sums = re.findall(
        r"^(\d+) \+ (\d+) = (\d+)$", "".join(texts(general_folder / GENERAL_FILES[0])), re.MULTILINE
    )
    assert sums
    assert all(int(left) + int(right) == int(total) for left, right, total in sums)


def test_general_conversations_close_every_turn(general_folder):
    for text in texts(general_folder / GENERAL_FILES[0]):
        turns = text.count("<|im_start|>")
        assert text.count("<|im_end|>\n") == turns
        assert text.count("<|im_start|>assistant\n") * 2 == turns


def test_no_text_holds_a_path_of_this_machine(folder, general_folder):
    files = [folder / name for name in DOMAIN_FILES] + [general_folder / n for n in GENERAL_FILES]
    for path in files:
        assert not re.search(r"(?<![\w<])/(usr|home|root|tmp|opt|lib|work)/", path.read_text())


def test_the_base_never_sees_an_answer_of_the_house(general_folder):
    everything = "".join(text for name in GENERAL_FILES for text in texts(general_folder / name))
    assert "intent:" not in everything
    assert "department:" not in everything
