"""DeepSpeed's settings from ours, and what is refused before any process is started."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ytrainer_core.config import LaunchConfig, SftConfig, narrow
from ytrainer_core.errors import ConfigError
from ytrainer_core.training.deepspeed import check_deepspeed, deepspeed_settings

AUTO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
}


def settings(**launch: Any) -> dict[str, Any]:
    found = deepspeed_settings(LaunchConfig(engine="deepspeed", **launch))
    assert found is not None
    return found


def config(**sections: Any) -> SftConfig:
    launch = {"engine": "deepspeed", **sections.pop("launch", {})}
    return narrow(SftConfig, {"data": {"train": "x"}, "launch": launch, **sections})


def faults(given: SftConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check_deepspeed(given)
    return "\n".join(caught.value.faults)


def test_ddp_has_no_deepspeed_settings() -> None:
    assert deepspeed_settings(LaunchConfig(processes=2)) is None


@pytest.mark.parametrize("zero", [1, 2])
def test_zero_1_and_2_say_their_stage_and_leave_the_rest_to_our_config(zero: Any) -> None:
    found = settings(zero=zero)
    assert found["zero_optimization"] == {"stage": zero}
    assert AUTO.items() <= found.items()


def test_zero_3_gathers_what_it_saves() -> None:
    assert settings(zero=3)["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]


def test_offload_moves_the_optimizer_and_under_zero_3_the_weights() -> None:
    assert "offload_param" not in settings(zero=2, offload="cpu")["zero_optimization"]
    zero = settings(zero=3, offload="cpu")["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"


def test_a_file_takes_the_place_of_zero_and_offload(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "overlap_comm": True}}))
    found = settings(zero=1, offload="cpu", deepspeed_config=str(path))
    zero = found["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"]) == (3, True)
    assert zero["stage3_gather_16bit_weights_on_model_save"]
    assert "offload_optimizer" not in zero
    assert AUTO.items() <= found.items()


def test_all_that_a_file_sets_against_our_config_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    tree = {"optimizer": {}, "scheduler": {}, "train_batch_size": 8, "bf16": {"enabled": True}}
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError) as caught:
        settings(deepspeed_config=str(path))
    assert len(caught.value.faults) == 4
    for name in ("optimizer", "scheduler", "train_batch_size=8", "bf16.enabled=True"):
        assert any(name in fault and str(path) in fault for fault in caught.value.faults)


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "cannot be read"),
        ('{"a": 1,\n oops}', r"ds\.json:2: is not JSON"),
        ("[]", "is not a DeepSpeed configuration"),
        ('{"zero_optimization": 2}', "is not a DeepSpeed configuration"),
    ],
)
def test_a_file_that_is_none_is_named(content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        settings(deepspeed_config=str(path))


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'ytrainer[deepspeed]'" in faults(config())


def test_all_that_deepspeed_cannot_do_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    told = faults(
        config(
            launch={"zero": 3, "offload": "cpu"},
            objective={"name": "flow", "normalization": "weights"},
            lora={"init": "pissa"},
            model={"quantization": "4bit"},
        )
    )
    names = ("normalization=weights", "launch.offload", "objective flow", "pissa", "4 bits")
    assert [name for name in names if name not in told] == []


def test_nothing_is_refused_under_ddp() -> None:
    check_deepspeed(config(launch={"engine": "ddp"}, objective={"normalization": "weights"}))
