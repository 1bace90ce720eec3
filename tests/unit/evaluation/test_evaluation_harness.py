"""lm-evaluation-harness measures the model that is in memory, on tasks of one's own, offline."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ytrainer_core.errors import ConfigError, DataError
from ytrainer_core.evaluation.harness import lm_eval_metrics, lower_is_better
from ytrainer_core.evaluation.intervals import Estimate, RowValues

Make = Callable[..., Any]

ROWS = [
    {"question": f"what is {i}", "choices": ["four", "the sum", "two"], "answer": i % 3}
    for i in range(7)
]

CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

ANSWERS = """
task: own-answers
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: generate_until
generation_kwargs:
  max_gen_toks: 4
  until: ["###"]
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
filter_list:
  - name: first-word
    filter:
      - function: regex
        regex_pattern: "([a-z]+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

TEXT = """
task: own_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - metric: byte_perplexity
"""

GROUP = """
group: own_group
task: [own_choices, own_other]
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
"""


@pytest.fixture
def installed() -> None:
    pytest.importorskip(
        "lm_eval", reason="lm-evaluation-harness is not installed (pip install 'ytrainer[lm-eval]')"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("own_choices", "own_other"):
        (tasks / f"{name}.yaml").write_text(CHOICES.format(name=name, rows=rows))
    (tasks / "answers.yaml").write_text(ANSWERS.format(rows=rows))
    (tasks / "text.yaml").write_text(TEXT.format(rows=rows))
    (tasks / "group.yaml").write_text(GROUP)
    return tasks


def choice_points(model: Any, tokenizer: Any) -> list[float]:
    """1 where the right choice has the greatest log-likelihood, one forward pass each."""
    points = []
    for row in ROWS:
        scores = []
        for choice in row["choices"]:
            prompt = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
            whole = tokenizer(f"{row['question']} {choice}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_p = model(input_ids=torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
            at = torch.tensor(whole)[1:, None]
            scores.append(float(log_p.gather(1, at)[len(prompt) - 1 :].sum()))
        points.append(float(scores.index(max(scores)) == row["answer"]))
    return points


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_task_of_ones_own_is_measured_document_by_document(
    seed: int, folder: Path, make_model: Make, tokenizer: Any
) -> None:
    model = make_model(seed=seed)
    found = lm_eval_metrics(
        model, tokenizer, ["own_choices"], folder=str(folder), batch_size=3, max_length=64
    )
    assert list(found) == ["own_choices_acc"]
    rows = found["own_choices_acc"]
    assert isinstance(rows, RowValues)
    assert rows.sums.tolist() == choice_points(model, tokenizer)
    assert rows.counts.tolist() == [1.0] * len(ROWS)


@pytest.mark.usefixtures("installed")
def test_an_adapter_counts_while_it_is_on(folder: Path, make_model: Make, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(make_model(), lora)

    def text_perplexity() -> float:
        found = lm_eval_metrics(model, tokenizer, ["own_text"], folder=str(folder), max_length=64)
        return found["own_text_byte_perplexity"].value

    on = text_perplexity()
    with model.disable_adapter():
        off = text_perplexity()
    assert on == pytest.approx(_byte_perplexity(model, tokenizer), rel=1e-4)
    with model.disable_adapter():
        assert off == pytest.approx(_byte_perplexity(model, tokenizer), rel=1e-4)
    assert on != pytest.approx(off, rel=0.05)


def _byte_perplexity(model: Any, tokenizer: Any) -> float:
    """exp of the loss of all documents per byte; a document's first token follows <|endoftext|>."""
    total = 0.0
    for row in ROWS:
        ids = [tokenizer.eos_token_id, *tokenizer(row["question"])["input_ids"]]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        total -= float(log_p.gather(1, torch.tensor(ids)[1:, None]).sum())
    return math.exp(total / sum(len(row["question"].encode()) for row in ROWS))


@pytest.mark.usefixtures("installed")
def test_what_is_no_mean_over_documents_comes_as_value_and_interval(
    folder: Path, make_model: Make, tokenizer: Any
) -> None:
    """The harness knows no standard error of a perplexity: the interval has no width."""
    found = lm_eval_metrics(make_model(), tokenizer, ["own_text"], folder=str(folder))
    perplexity = found["own_text_byte_perplexity"]
    assert isinstance(perplexity, Estimate)
    assert perplexity.low == perplexity.value == perplexity.high
    assert perplexity.rows == len(ROWS)


@pytest.mark.usefixtures("installed")
def test_of_a_group_the_whole_is_reported_with_the_interval_of_its_standard_error(
    folder: Path, make_model: Make, tokenizer: Any
) -> None:
    model = make_model()
    found = lm_eval_metrics(model, tokenizer, ["own_group"], folder=str(folder), max_length=64)
    assert list(found) == ["own_group_acc"]
    group = found["own_group_acc"]
    assert isinstance(group, Estimate)
    points = np.array(choice_points(model, tokenizer))
    assert group.value == pytest.approx(points.mean())
    # Two tasks of 7 documents, the same ones: the pooled standard error of a mean of 14.
    error = math.sqrt(points.var(ddof=1) / len(points) / 2) if points.var() else 0.0
    assert group.high - group.value == pytest.approx(1.96 * error, rel=0.1)
    assert group.value - group.low == pytest.approx(group.high - group.value)


@pytest.mark.usefixtures("installed")
def test_a_filter_and_signs_in_a_name_become_part_of_a_plain_name(
    folder: Path, make_model: Make, tokenizer: Any
) -> None:
    found = lm_eval_metrics(make_model(), tokenizer, ["own-answers"], folder=str(folder))
    assert list(found) == ["own_answers_exact_match_first_word"]


@pytest.mark.usefixtures("installed")
def test_a_limit_takes_the_first_documents(folder: Path, make_model: Make, tokenizer: Any) -> None:
    model = make_model()
    found = lm_eval_metrics(
        model, tokenizer, ["own_choices", "own_text"], folder=str(folder), limit=3
    )
    first = found["own_choices_acc"]
    assert isinstance(first, RowValues)
    assert first.sums.tolist() == choice_points(model, tokenizer)[:3]
    text = found["own_text_byte_perplexity"]
    assert isinstance(text, Estimate) and text.rows == 3


@pytest.mark.usefixtures("installed")
def test_nothing_is_left_changed_and_nothing_printed(
    folder: Path, make_model: Make, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the model's mode, nor the tokenizer, nor what others draw at random."""
    model = make_model().train()

    def state() -> tuple[Any, ...]:
        drawn = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
        return *drawn[:2], drawn[2].tolist(), tokenizer.padding_side, tokenizer.pad_token

    before = state()
    lm_eval_metrics(model, tokenizer, ["own_choices"], folder=str(folder))
    assert model.training
    assert state() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("installed")
def test_a_task_that_is_not_there_is_told_with_one_like_it(
    folder: Path, make_model: Make, tokenizer: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        lm_eval_metrics(
            make_model(), tokenizer, ["own_choises", "own_text", "qqqqqq"], folder=str(folder)
        )
    assert caught.value.faults == (
        "evaluate.lm_eval: there is no task 'own_choises'. Did you mean 'own_choices'?",
        "evaluate.lm_eval: there is no task 'qqqqqq'. `lm-eval ls tasks` lists all.",
    )


@pytest.mark.usefixtures("installed")
def test_a_folder_or_data_that_is_not_there_is_told(
    folder: Path, make_model: Make, tokenizer: Any
) -> None:
    with pytest.raises(ConfigError, match=r"lm_eval_folder: .*nowhere is no folder"):
        lm_eval_metrics(make_model(), tokenizer, ["own_text"], folder=str(folder / "nowhere"))
    (folder.parent / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="data of own_text cannot be read"):
        lm_eval_metrics(make_model(), tokenizer, ["own_text"], folder=str(folder))


def test_without_the_harness_the_extra_is_named(
    make_model: Make, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'ytrainer\[lm-eval\]'"):
        lm_eval_metrics(make_model(), tokenizer, ["arc_easy"])


@pytest.mark.parametrize(
    "name, lower",
    [
        ("wikitext_word_perplexity", True),
        ("wikitext_bits_per_byte", True),
        ("arc_easy_acc_norm", False),
        ("own_character", False),
        ("wmt_ter", True),
    ],
)
def test_perplexities_are_better_when_lower(name: str, lower: bool) -> None:
    assert lower_is_better(name) is lower
