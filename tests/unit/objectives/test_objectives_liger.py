"""The optional liger backend says why it cannot work, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.errors import ConfigError
from ytrainer_core.objectives import liger
from ytrainer_core.objectives.attach import attach_objective


def refusal(config: ObjectiveConfig, **options: bool) -> str:
    with pytest.raises(ConfigError) as caught:
        liger.check_liger(config, soft_target=options.get("soft_target", False))
    return str(caught.value)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """installed(version, gpu=True): as if liger-kernel of this version and a GPU were here."""

    def install(version: str, gpu: bool = True) -> None:
        monkeypatch.setattr(liger.metadata, "version", lambda name: version)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return install


LIGER = ObjectiveConfig(name="cross_entropy", backend="liger")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_backend_is_refused_when_it_is_attached(
    make_model: Callable[..., Any],
) -> None:
    with pytest.raises(ConfigError, match=r"CUDA.*objective\.backend=chunked"):
        attach_objective(make_model(), LIGER)


@pytest.mark.parametrize("version", ["0.8.5", "0.10.0", "1.0.0"])
def test_with_package_and_gpu_the_backend_is_taken(version: str, installed: Any) -> None:
    installed(version)
    liger.check_liger(LIGER, soft_target=False)


def test_a_version_that_is_too_old_is_named(installed: Any) -> None:
    installed("0.8.4")
    assert "liger-kernel 0.8.4 is too old" in refusal(LIGER)


def test_other_objectives_and_soft_targets_are_refused(installed: Any) -> None:
    installed("0.8.5")
    assert "objective.name=cross_entropy" in refusal(LIGER.model_copy(update={"name": "dft"}))
    assert "teacher" in refusal(LIGER, soft_target=True)


def test_all_reasons_come_together(installed: Any) -> None:
    installed("0.1", gpu=False)
    message = refusal(LIGER.model_copy(update={"name": "eaft"}))
    for reason in ("cross_entropy", "too old", "CUDA"):
        assert reason in message
