"""A training that was cut off, told to stop, changed or finished, as the next command finds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from object_storage import s3_bucket
from safetensors.torch import load_file

from ytrainer_core.files import home
from ytrainer_core.training.checkpoints import newest_complete

pytestmark = pytest.mark.slow

Cli = Callable[..., Any]


@pytest.fixture
def config(rows: Callable[..., Path], base_folder: Path, tmp_path: Path) -> Path:
    """An sft config of 400 steps with a checkpoint every 5."""
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
model: {{name_or_path: {base_folder}}}
data: {{train: {rows()}, max_length: 64, validation_fraction: 0.25}}
lora: {{rank: 4}}
train: {{max_steps: 400, save_steps: 5, logging_steps: 1, pack_length: 32}}
tracking: {{enabled: false}}
"""
    )
    return path


def start(config: Path, *words: str) -> subprocess.Popen[str]:
    """`ytrainer sft` as a process of its own."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("ytrainer"), "sft", config, *words],
        env=os.environ | {"COLUMNS": "300", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(process: subprocess.Popen[str]) -> Path:
    """The folder of the work, once it has a checkpoint that counts."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for root in (home() / "checkpoints").glob("*/"):
            if newest_complete(root):
                return root
        time.sleep(0.05)
    raise AssertionError("no checkpoint within two minutes")


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "adapter_model.safetensors")


def test_sigterm_ends_with_5_and_the_same_command_goes_on_to_the_same_model(
    config: Path, cli: Cli, tmp_path: Path
) -> None:
    process = start(config, f"output_dir={tmp_path / 'out'}")
    wait_for_checkpoint(process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "stopped by SIGTERM after step" in said and "same command continues" in said
    assert not (tmp_path / "out").exists()
    assert cli("sft", config, "max_steps=1", f"output_dir={tmp_path / 'x'}").code == 2  # no knob
    continued = cli("sft", config, f"output_dir={tmp_path / 'out'}")
    assert continued.code == 0 and "400 (continued from" in continued.out
    straight = cli("sft", config, f"output_dir={tmp_path / 'straight'}", "train.resume=never")
    assert straight.code == 0 and "continued" not in straight.out
    found, expected = weights_in(tmp_path / "out"), weights_in(tmp_path / "straight")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_machine_goes_on_from_the_checkpoint_in_object_storage(
    config: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_bucket("runs"):
        stored = "train.checkpoint_to=s3://runs/checkpoints"
        process = start(config, stored)
        wait_for_checkpoint(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        monkeypatch.setenv("YTRAINER_HOME", str(tmp_path / "other machine"))
        continued = cli("sft", config, stored, f"output_dir={tmp_path / 'out'}")
        assert continued.code == 0 and "400 (continued from" in continued.out
        straight = cli("sft", config, f"output_dir={tmp_path / 'straight'}", "train.resume=never")
        assert straight.code == 0 and "continued" not in straight.out
        found, expected = weights_in(tmp_path / "out"), weights_in(tmp_path / "straight")
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        monkeypatch.setenv("YTRAINER_HOME", str(tmp_path / "third"))
        words = (stored, "train.max_steps=3", f"output_dir={tmp_path / 'third-out'}")
        anew = cli("sft", config, *words)
        assert anew.code == 0 and "continued" not in anew.out


def test_an_address_that_is_none_or_has_nothing_to_store_is_refused(config: Path, cli: Cli) -> None:
    path = cli("sft", config, "train.checkpoint_to=/some/folder")
    assert path.code == 2 and "s3://BUCKET/PREFIX" in path.said
    nothing = cli("sft", config, "train.checkpoint_to=s3://runs/x", "train.save_steps=0")
    assert nothing.code == 2 and "save_steps" in nothing.said


@pytest.fixture
def cut_off(config: Path) -> Path:
    """The config of a training that was killed after a checkpoint."""
    process = start(config)
    wait_for_checkpoint(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return config


def test_a_changed_config_refuses_to_resume_and_says_what_differs(
    cut_off: Path, cli: Cli, rows: Callable[..., Path]
) -> None:
    changed = cli("sft", cut_off, "optim.learning_rate=1e-3", "train.resume=true")
    assert changed.code == 2
    assert "optim.learning_rate: 0.0002 -> 0.001" in changed.said
    assert "train.resume" in changed.said
    other = rows([{"instruction": f"Count to {i}", "output": str(i)} for i in range(20)], "b.json")
    corpus = cli("sft", cut_off, f"data.train={other}", "train.resume=always")
    assert corpus.code == 2 and "the corpus' rows: sha256" in corpus.said


def test_without_being_asked_to_resume_a_changed_config_starts_anew_and_says_so(
    cut_off: Path, cli: Cli
) -> None:
    anew = cli("sft", cut_off, "train.max_steps=3")
    assert anew.code == 0 and "continued" not in anew.out
    assert "starting anew" in anew.said and "train.max_steps: 400 -> 3" in anew.said


def test_nothing_left_to_do_is_said_and_gives_the_finished_model(
    config: Path, cli: Cli, tmp_path: Path
) -> None:
    words = ("train.max_steps=3", "train.num_train_epochs=1")
    first = cli("sft", config, f"output_dir={tmp_path / 'a'}", *words)
    again = cli("sft", config, f"output_dir={tmp_path / 'b'}", "train.resume=always", *words)
    assert (first.code, again.code) == (0, 0)
    assert "nothing was left to do" in again.out and "nothing was left" not in first.out
    a, b = weights_in(tmp_path / "a"), weights_in(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_kept_epochs_are_models_of_their_own(config: Path, cli: Cli, tmp_path: Path) -> None:
    words = ("train.max_steps=0", "train.num_train_epochs=3", "train.save_epochs=1,2")
    assert cli("sft", config, f"output_dir={tmp_path / 'out'}", *words).code == 0
    epochs = tmp_path / "out" / "epochs"
    assert sorted(path.name for path in epochs.iterdir()) == ["epoch-1", "epoch-2"]
    assert cli("chat", epochs / "epoch-1", "--once", "What is 1 and 1?").code == 0
    first = load_file(epochs / "epoch-1" / "adapter_model.safetensors")
    last = weights_in(tmp_path / "out")
    assert any(not torch.equal(first[name], last[name]) for name in last)


# --- starting from an earlier model --------------------------------------------------------------


def test_init_from_continues_an_earlier_adapter_on_its_base(
    config: Path, cli: Cli, base_folder: Path, tmp_path: Path
) -> None:
    short = ("train.max_steps=2", "lora.rank=8")
    assert cli("sft", config, f"output_dir={tmp_path / 'a'}", *short).code == 0
    earlier = f"model.init_from={tmp_path / 'a' / 'model'}"
    still = ("train.max_steps=1", "optim.learning_rate=1e-12", earlier)
    assert cli("sft", config, f"output_dir={tmp_path / 'b'}", *still).code == 0
    a, b = weights_in(tmp_path / "a"), weights_in(tmp_path / "b")
    for name in a:  # of rank 8, although this config says 4
        torch.testing.assert_close(b[name], a[name], rtol=0, atol=1e-9)


def test_init_from_merges_an_adapter_where_every_weight_is_trained(
    config: Path, cli: Cli, tmp_path: Path
) -> None:
    assert cli("sft", config, f"output_dir={tmp_path / 'a'}", "train.max_steps=9").code == 0
    earlier = f"model.init_from={tmp_path / 'a' / 'model'}"
    still = ("train.max_steps=1", "optim.learning_rate=1e-12", "lora.rank=0", earlier)
    assert cli("sft", config, f"output_dir={tmp_path / 'b'}", *still).code == 0
    ask = ("--once", "What is 3 and 3?")
    adapter, merged = (cli("chat", tmp_path / run / "model", *ask).out for run in ("a", "b"))
    assert adapter == merged != ""


def test_init_from_something_else_is_refused_with_the_way_out(
    config: Path, cli: Cli, base_folder: Path, tmp_path: Path
) -> None:
    no_model = cli("sft", config, f"model.init_from={base_folder}")
    assert no_model.code == 2 and "model.name_or_path" in no_model.said
    assert cli("sft", config, f"output_dir={tmp_path / 'a'}", "train.max_steps=1").code == 0
    full = ("lora.rank=0", "train.max_steps=1")
    assert cli("sft", config, f"output_dir={tmp_path / 'f'}", *full).code == 0
    of_full = cli("sft", config, f"model.init_from={tmp_path / 'f' / 'model'}")
    assert of_full.code == 2 and "is a full model" in of_full.said
    other_base = f"model.name_or_path={tmp_path / 'f' / 'model'}"
    elsewhere = cli("sft", config, other_base, f"model.init_from={tmp_path / 'a' / 'model'}")
    assert elsewhere.code == 2 and "was trained on" in elsewhere.said
