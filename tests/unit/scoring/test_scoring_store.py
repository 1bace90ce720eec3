"""Signals on disk are those in memory, and no shard that is whole is computed twice."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ytrainer_core.errors import YTrainerError
from ytrainer_core.scoring import store
from ytrainer_core.scoring.signals import RowSignals, token_signals
from ytrainer_core.scoring.store import SignalTable, score_rows

Make = Callable[..., Any]
LENGTHS = [5, 14, 9, 3, 14, 7, 20]
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 3)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each shard that was computed, as their number."""
    seen: list[int] = []
    signals_of = store.signals_of

    def counted(model: Any, rows: Sequence[Any], **options: Any) -> list[RowSignals]:
        seen.append(len(rows))
        return signals_of(model, rows, **options)

    monkeypatch.setattr(store, "signals_of", counted)
    return seen


def same(found: RowSignals, expected: RowSignals, *, exact: bool = True) -> None:
    """Rows of another shard are in other batches, whose products round otherwise."""
    rtol, atol = (0.0, 0.0) if exact else (1e-4, 1e-5)
    for name in ("nll", "entropy", "top_prob"):
        values, wanted = getattr(found, name), getattr(expected, name)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, wanted, rtol=rtol, atol=atol)
    for name, dtype in (("expected", np.int64), ("positions", np.int64), ("rank", np.int32)):
        assert getattr(found, name).dtype == dtype
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def test_rows_read_from_disk_are_those_of_one_pass_in_memory(
    make_model: Make, make_rows: Make, tmp_path: Path
) -> None:
    model, rows = make_model(), make_rows(LENGTHS)
    rows[3]["labels"] = [-100] * 3  # a row without a target
    expected = token_signals(model, rows, max_length=8, ranks=True)
    table = score_rows(model, rows, tmp_path, key="a", max_length=8)
    assert len(table) == 7
    for found, one in zip(table, expected, strict=True):
        same(found, one, exact=False)
        assert found.free_nll is None
    for i in (0, 3, 6, -1, -7):
        same(table[i], list(table)[i])
    assert [len(row.nll) for row in table[2:6:2]] == [7, 12]
    with pytest.raises(IndexError):
        table[7]


def test_a_corpus_without_rows_is_a_table_without_rows(make_model: Make, tmp_path: Path) -> None:
    table = score_rows(make_model(), [], tmp_path, key="a")
    assert (len(table), list(table)) == (0, [])


def test_rows_are_mapped_and_cannot_be_changed(
    make_model: Make, make_rows: Make, tmp_path: Path
) -> None:
    table = score_rows(make_model(), make_rows([6]), tmp_path, key="a")
    with pytest.raises(ValueError, match="read-only"):
        table[0].nll[0] = 0.0


def test_shards_that_are_there_are_not_computed_again(
    make_model: Make, make_rows: Make, tmp_path: Path, computed: list[int]
) -> None:
    model, rows = make_model(), make_rows(LENGTHS)
    first = list(score_rows(model, rows, tmp_path, key="a"))
    assert computed == [3, 3, 1]
    for found, expected in zip(score_rows(model, rows, tmp_path, key="a"), first, strict=True):
        same(found, expected)
    assert computed == [3, 3, 1]
    score_rows(model, rows, tmp_path, key="b")
    assert computed == [3, 3, 1] * 2


def test_a_shard_ends_where_its_tokens_are_enough(
    make_model: Make,
    make_rows: Make,
    tmp_path: Path,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "SHARD_TOKENS", 15)
    model, rows = make_model(), make_rows(LENGTHS)
    for _ in range(2):
        assert len(score_rows(model, rows, tmp_path, key="a")) == 7
        assert computed == [2, 3, 2]  # 5 + 14, 9 + 3 + 14 and 7 + 20 tokens


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"garbage" * 100,
        lambda data: data[:700] + bytes(byte ^ 1 for byte in data[700:740]) + data[740:],
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "cut off", "garbage", "flipped bits", "zeros"],
)
def test_a_damaged_shard_is_computed_again(
    damage: Callable[[bytes], bytes],
    make_model: Make,
    make_rows: Make,
    tmp_path: Path,
    computed: list[int],
) -> None:
    model, rows = make_model(), make_rows(LENGTHS)
    expected = [row.nll.tolist() for row in score_rows(model, rows, tmp_path, key="a")]
    shard = sorted((tmp_path / "a").iterdir())[1]
    shard.write_bytes(damage(shard.read_bytes()))
    found = score_rows(model, rows, tmp_path, key="a")
    assert computed == [3, 3, 1, 3]
    assert [row.nll.tolist() for row in found] == expected


def test_every_flipped_byte_of_the_values_is_noticed(
    make_model: Make, make_rows: Make, tmp_path: Path
) -> None:
    table = score_rows(make_model(), make_rows([9]), tmp_path, key="a")
    (shard,) = (tmp_path / "a").iterdir()
    data = shard.read_bytes()
    for row in (table[0].nll, table[0].entropy, table[0].top_prob):
        at = data.index(row.tobytes())
        shard.write_bytes(data[:at] + bytes([data[at] ^ 128]) + data[at + 1 :])
        assert store._read_shard(shard, store._COLUMNS) is None
    shard.write_bytes(data)
    assert store._read_shard(shard, store._COLUMNS) is not None


def test_a_shard_without_the_free_losses_is_computed_again_where_they_are_asked_for(
    make_model: Make, make_rows: Make, tmp_path: Path, computed: list[int]
) -> None:
    model, rows = make_model(), make_rows([6, 7])
    score_rows(model, rows, tmp_path, key="a")
    assert score_rows(model, rows, tmp_path, key="a", free=True)[0].free_nll is not None
    score_rows(model, rows, tmp_path, key="a")
    assert computed == [2, 2]


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from ytrainer_core.scoring import store

rows = [{"input_ids": list(range(3, 3 + n)), "labels": list(range(3, 3 + n))} for n in LENGTHS]
store.SHARD_ROWS = 3
written = 0
fsync = os.fsync

def dying(descriptor):
    global written
    written += 1
    if written == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = dying
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
store.score_rows(model, rows, Path(sys.argv[2]), key="a")
"""


@pytest.mark.slow
def test_after_a_kill_only_the_missing_shards_are_computed(
    base_folder: Path, make_model: Make, tmp_path: Path, computed: list[int]
) -> None:
    """Killed while the third shard is being written: it has no name yet."""
    program = KILLED.replace("LENGTHS", repr([5, 9, 4, 8, 6, 7, 3]))
    child = subprocess.run(
        [sys.executable, "-c", program, str(base_folder), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert len(list((tmp_path / "a").glob("[0-9]*"))) == 2
    rows = [
        {"input_ids": list(range(3, 3 + n)), "labels": list(range(3, 3 + n))}
        for n in [5, 9, 4, 8, 6, 7, 3]
    ]
    model = make_model(seed=1)
    table = score_rows(model, rows, tmp_path, key="a")
    assert computed == [1]
    expected = token_signals(model, rows, ranks=True)
    for found, one in zip(table, expected, strict=True):
        same(found, one, exact=False)


def test_an_error_in_the_middle_leaves_whole_shards_and_no_others(
    make_model: Make, make_rows: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 4:
                raise RuntimeError("broken")
            return super().__getitem__(index)

    rows = make_rows(LENGTHS)
    with pytest.raises(RuntimeError, match="broken"):
        score_rows(make_model(), Breaking(rows), tmp_path, key="a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["000000000.arrow"]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        score_rows(make_model(), rows, tmp_path, key="a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["000000000.arrow"]


def test_a_disk_that_does_not_keep_what_is_written_is_an_error(
    make_model: Make, make_rows: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._Shard, "checksum", lambda self: str(id(self)).encode())
    with pytest.raises(YTrainerError, match="reads otherwise than it was written"):
        score_rows(make_model(), make_rows([6]), tmp_path, key="a")


def losses(model: Any, ids: Sequence[int]) -> list[float]:
    """Loss of every token of a sequence but the first, by full logits."""
    import torch

    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-log_p[at, token].item() for at, token in enumerate(ids[1:])]


def free(model: Any, rows: Any, folder: Path, **options: Any) -> SignalTable:
    return score_rows(model, rows, folder, key="free", free=True, **options)


def test_free_losses_are_those_of_the_answer_alone_and_its_first_token_keeps_its_own(
    make_model: Make, tmp_path: Path
) -> None:
    model = make_model()
    ids = [11, 12, 13, 21, 22, 23]
    (row,) = free(model, [{"input_ids": ids, "labels": [-100] * 3 + ids[3:]}], tmp_path)
    given = losses(model, ids)[2:]
    alone = losses(model, [21, 22, 23])
    assert row.nll.tolist() == pytest.approx(given, rel=1e-4)
    assert row.free_nll.tolist() == pytest.approx([given[0], *alone], rel=1e-4)
    ifd = math.exp(np.mean(given) - np.mean([given[0], *alone]))
    assert math.exp(row.nll.mean() - row.free_nll.mean()) == pytest.approx(ifd, rel=1e-4)


def test_with_a_bos_token_every_target_has_a_free_loss(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    model.config.bos_token_id = 11
    ids = [11, 12, 13, 21, 22, 23]
    rows = [
        {"input_ids": ids, "labels": [-100] * 3 + ids[3:]},
        {"input_ids": ids[1:], "labels": [-100] * 2 + ids[3:]},  # begins with none
    ]
    with_bos, without = free(model, rows, tmp_path)
    assert with_bos.free_nll.tolist() == pytest.approx(losses(model, [11, 21, 22, 23]), rel=1e-4)
    assert without.free_nll[0] == without.nll[0]
    assert without.free_nll[1:].tolist() == pytest.approx(losses(model, [21, 22, 23]), rel=1e-4)


def test_of_a_conversation_all_answers_are_read_one_after_the_other(
    make_model: Make, tmp_path: Path
) -> None:
    model = make_model()
    ids = [11, 21, 22, 12, 13, 31, 32]
    labels = [-100, 21, 22, -100, -100, 31, 32]
    (row,) = free(model, [{"input_ids": ids, "labels": labels}], tmp_path)
    alone = losses(model, [21, 22, 31, 32])
    assert row.free_nll.tolist() == pytest.approx([row.nll[0], *alone], rel=1e-4)


def test_text_without_a_prompt_is_as_hard_free_as_given(
    make_model: Make, make_rows: Make, tmp_path: Path
) -> None:
    rows = make_rows([9, 30], prompt=0)
    for row in free(make_model(), rows, tmp_path, max_length=12):
        np.testing.assert_allclose(row.free_nll, row.nll, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [[-100] * 4, [-100, -100, -100, 14], [11, -100, -100, -100]])
def test_rows_of_one_target_or_none_have_a_ratio_of_one(
    labels: list[int], make_model: Make, tmp_path: Path
) -> None:
    (row,) = free(make_model(), [{"input_ids": [11, 12, 13, 14], "labels": labels}], tmp_path)
    assert row.free_nll.tolist() == row.nll.tolist()
    assert len(row.nll) == (labels[3] == 14)
