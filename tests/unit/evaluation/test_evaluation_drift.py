"""What is kept of the base is enough to say how far a tuned model is from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ytrainer_core.evaluation import drift as module
from ytrainer_core.evaluation.drift import distribution_summary, drift

Make = Callable[..., Any]
LENGTHS = [9, 14, 5, 20, 11]


def log_probabilities(model: Any, row: dict[str, list[int]]) -> torch.Tensor:
    """[targets, vocab] of one row alone, from the model's own logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
    return logits.log_softmax(-1)[torch.tensor(row["labels"])[1:] != -100]


def exact(base: Any, model: Any, row: dict[str, list[int]]) -> tuple[float, float]:
    """(sum over a row's targets of KL(base‖model), targets with the same likeliest token)."""
    p, q = log_probabilities(base, row), log_probabilities(model, row)
    same = p.argmax(-1) == q.argmax(-1)
    return float((p.exp() * (p - q)).sum()), float(same.sum())


def nudged(model: Any, by: float, seed: int = 5) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
def test_with_every_token_kept_it_is_the_divergence_over_the_whole_vocabulary(
    batch_tokens: int, make_model: Make, make_rows: Make
) -> None:
    base, tuned, rows = make_model(), nudged(make_model(), 0.05), make_rows(LENGTHS)
    kept = distribution_summary(base, rows, top=296, batch_tokens=batch_tokens)
    found = drift(kept, tuned, rows, batch_tokens=batch_tokens)
    truth = [exact(base, tuned, row) for row in rows]
    np.testing.assert_allclose(found["kl"].sums, [kl for kl, _ in truth], rtol=1e-4)
    assert found["kl"].value > 0.01
    assert found["top1_agreement"].sums.tolist() == [same for _, same in truth]
    assert 0 < found["top1_agreement"].value < 1
    assert found["kl"].counts.tolist() == [length - 2 for length in LENGTHS]
    assert not kept.rest.any() and kept.ids.shape == (sum(LENGTHS) - 10, 296)


@pytest.mark.parametrize("top", [1, 8, 64, 256, 295, 296, 1000])
def test_a_model_is_not_apart_from_itself(top: int, make_model: Make, make_rows: Make) -> None:
    model, rows = make_model(), make_rows(LENGTHS)
    found = drift(distribution_summary(model, rows, top=top), model, rows)
    assert found["kl"].value == 0
    assert found["top1_agreement"].value == 1


def test_fewer_tokens_kept_give_a_lower_bound_that_more_of_them_raise(
    make_model: Make, make_rows: Make
) -> None:
    base, tuned, rows = make_model(), nudged(make_model(), 0.05), make_rows(LENGTHS)
    bounds = [
        drift(distribution_summary(base, rows, top=top), tuned, rows)["kl"].sums
        for top in (1, 4, 16, 64, 296)
    ]
    for less, more in itertools.pairwise(bounds):
        assert (less <= more + 1e-5).all()
    assert (bounds[0] > 0).all()
    assert bounds[1].sum() < bounds[-1].sum() / 1.02  # what was left out matters here
    assert bounds[3].sum() > bounds[-1].sum() / 2


def test_kept_is_what_is_likeliest_and_how_likely_all_the_rest_is(
    make_model: Make, make_rows: Make
) -> None:
    model, rows = make_model(), make_rows(LENGTHS)
    kept = distribution_summary(model, rows, top=8)
    expected = torch.cat([log_probabilities(model, row) for row in rows])
    values, ids = expected.topk(8)
    assert kept.ids.tolist() == ids.tolist() and kept.ids.dtype == np.int32
    np.testing.assert_allclose(kept.logprobs, values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kept.rest, 1 - values.exp().sum(-1), rtol=1e-3)


def test_two_outcomes_by_hand(
    make_model: Make, make_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likeliest token has p and q, all others 1 - p and 1 - q."""
    base, tuned, rows = make_model(), nudged(make_model(), 0.05), make_rows([6])
    kept = distribution_summary(base, rows, top=1)
    found = drift(kept, tuned, rows)["kl"]
    p, q = log_probabilities(base, rows[0]).exp(), log_probabilities(tuned, rows[0]).exp()
    best = p.argmax(-1, keepdim=True)
    one, other = p.gather(1, best), q.gather(1, best)
    by_hand = one * (one / other).log() + (1 - one) * ((1 - one) / (1 - other)).log()
    assert found.sums == pytest.approx([float(by_hand.sum())], rel=1e-3)


def test_an_adapter_is_compared_with_itself_switched_off(make_model: Make, make_rows: Make) -> None:
    from peft import LoraConfig, get_peft_model

    rows = make_rows(LENGTHS)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(make_model(), lora)
    with model.disable_adapter():
        kept = distribution_summary(model, rows)
        assert drift(kept, model, rows)["kl"].value == 0
    found = drift(kept, model, rows)["kl"]
    merged = drift(distribution_summary(make_model(), rows), model.merge_and_unload(), rows)["kl"]
    assert found.value > 0.01
    np.testing.assert_allclose(found.sums, merged.sums, rtol=1e-3)


def test_logits_are_made_in_pieces_that_change_nothing(
    make_model: Make, make_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned, rows = make_model(), nudged(make_model(), 0.05), make_rows(LENGTHS)
    whole = drift(distribution_summary(base, rows), tuned, rows)
    made = []
    projection_logits = module.Projection.logits

    def seeing(self: Any, part: slice, buffer: Any) -> Any:
        made.append(part.stop - part.start)
        return projection_logits(self, part, buffer)

    monkeypatch.setattr(module.Projection, "logits", seeing)
    monkeypatch.setattr(module, "chunk_size", lambda vocabulary: 7)
    cut = drift(distribution_summary(base, rows), tuned, rows)
    assert max(made) == 7 and len(made) > 4
    np.testing.assert_allclose(cut["kl"].sums, whole["kl"].sums, rtol=1e-4)


def test_rows_over_the_limit_are_read_in_pieces_every_target_once(
    make_model: Make, make_rows: Make
) -> None:
    base, tuned, rows = make_model(), nudged(make_model(), 0.05), make_rows([30, 9])
    found = drift(
        distribution_summary(base, rows, top=296, max_length=12), tuned, rows, max_length=12
    )
    assert found["kl"].counts.tolist() == [28, 7]
    ids = rows[0]["input_ids"]
    pieces = [ids[:12], ids[11:23], ids[22:]]  # a later piece begins with the last token before
    labels = [[-100, -100, *pieces[0][2:]], *([-100, *piece[1:]] for piece in pieces[1:])]
    truth = [
        exact(base, tuned, {"input_ids": piece, "labels": own})[0]
        for piece, own in zip(pieces, labels, strict=True)
    ]
    assert found["kl"].sums[0] == pytest.approx(sum(truth), rel=1e-4)


def test_of_long_rows_the_first_targets_are_compared_and_no_more_is_read(
    make_model: Make, make_rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned, rows = make_model(), nudged(make_model(), 0.05), make_rows([30, 6])
    monkeypatch.setattr(module, "MOST_TARGETS", 5)
    found = drift(distribution_summary(base, rows, top=296), tuned, rows)
    assert found["kl"].counts.tolist() == [5, 4]
    first = {"input_ids": rows[0]["input_ids"][:7], "labels": rows[0]["labels"][:7]}
    assert found["kl"].sums[0] == pytest.approx(exact(base, tuned, first)[0], rel=1e-4)


def test_rows_without_a_target_count_nothing(make_model: Make, make_rows: Make) -> None:
    model = make_model()
    rows = [{"input_ids": [5, 6, 7], "labels": [-100] * 3}, *make_rows([6])]
    found = drift(distribution_summary(model, rows), model, rows)
    assert found["kl"].counts.tolist() == [0, 4]
    alone = drift(distribution_summary(model, rows[:1]), model, rows[:1])
    assert alone["kl"].counts.tolist() == [0]


def test_a_distribution_without_a_doubt_is_compared_too(make_model: Make, make_rows: Make) -> None:
    """All but one token have no probability that float32 could hold."""
    base, tuned, rows = make_model(), make_model(), make_rows([6])
    base.model.norm.weight.data *= 1000
    for top in (1, 296):
        sure = drift(distribution_summary(base, rows, top=top), base, rows)
        assert sure["kl"].value == 0
        found = drift(distribution_summary(base, rows, top=top), tuned, rows)["kl"]
        q = log_probabilities(tuned, rows[0])
        best = log_probabilities(base, rows[0]).argmax(-1, keepdim=True)
        assert found.value == pytest.approx(float(-q.gather(1, best).mean()), rel=1e-3)


def test_a_model_that_is_broken_is_at_no_distance(make_model: Make, make_rows: Make) -> None:
    """Not an error: the gate says what it means."""
    base, broken, rows = make_model(), make_model(), make_rows([6])
    broken.model.norm.weight.data[0] = float("nan")
    for top in (8, 296):
        assert np.isnan(drift(distribution_summary(base, rows, top=top), broken, rows)["kl"].value)


def test_other_rows_than_the_bases_are_an_error(make_model: Make, make_rows: Make) -> None:
    model = make_model()
    kept = distribution_summary(model, make_rows([6, 7]))
    with pytest.raises(ValueError, match="other rows"):
        drift(kept, model, make_rows([6, 8]))


def test_a_model_in_training_goes_on_training(make_model: Make, make_rows: Make) -> None:
    model, rows = make_model().train(), make_rows([6])
    drift(distribution_summary(model, rows), model, rows)
    assert model.training
