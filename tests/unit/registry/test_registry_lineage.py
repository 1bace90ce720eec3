"""A training that goes on from a registered version names it, and so does what it registers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ytrainer_core import registry
from ytrainer_core.config import ModelConfig, SftConfig
from ytrainer_core.registry import fetch_registered, show
from ytrainer_core.stages.run import run_stage
from ytrainer_core.training.model import read_card
from ytrainer_core.training.parents import Parent, parent_of, trained_digest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_process_proof")]

Register = Callable[..., registry.Version]
Tune = Callable[..., Path]


@pytest.fixture
def tune(base_folder: Path, tmp_path: Path) -> Tune:
    """tune(name, **ModelConfig) -> the model's folder after two steps of sft."""
    rows = [{"instruction": f"What is {i}?", "output": f"It is {i}."} for i in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def run(name: str, rank: int = 4, **model: str) -> Path:
        config = SftConfig.model_validate(
            {
                "model": {"name_or_path": str(base_folder), **model},
                "data": {
                    "train": str(tmp_path / "rows.json"),
                    "max_length": 64,
                    "validation_fraction": 0.25,
                },
                "lora": {"rank": rank},
                "train": {"max_steps": 2, "save_steps": 0, "pack_length": 32},
            }
        )
        folder = tmp_path / name
        outputs = {"model": folder, "report": tmp_path / "r.html", "epochs": tmp_path / "epochs"}
        run_stage("sft", config, inputs={}, outputs=outputs)
        return folder

    return run


def ancestry(uri: str) -> list[str]:
    """URIs from a version back along its parents."""
    node, line = show(uri).ancestry, []
    while node:
        line.append(node.uri)
        node = next((a for a in node.ancestors if a.relation == "trained on from"), None)  # type: ignore[assignment]
    return line


def test_incremental_training_leads_back_to_the_first_version(
    tune: Tune, register: Register
) -> None:
    first = tune("first")
    assert (read_card(first).parent, read_card(first).parent_sha256) == ("", "")
    assert register(first, "chain").version == 1
    second = tune("second", init_from="models:/chain@challenger")
    assert read_card(second).parent == "models:/chain/1"
    assert read_card(second).parent_sha256 == trained_digest(first)
    assert register(second, "chain").version == 2
    # the same from folders that nobody fetched: found among the versions by their digest
    third = tune("third", init_from=str(second))
    assert (read_card(third).parent, read_card(third).parent_sha256) == ("", trained_digest(second))
    assert register(third, "chain").version == 3
    assert ancestry("models:/chain/3") == [f"models:/chain/{n}" for n in (3, 2, 1)]


def test_a_parent_that_was_never_registered_is_known_by_its_digest(
    tune: Tune, register: Register
) -> None:
    lone = tune("lone")
    version = register(tune("child", init_from=str(lone)), "lonely")
    assert ancestry(version.uri) == [version.uri, f"sha256:{trained_digest(lone)}"]


def test_a_full_model_is_gone_on_from_as_the_base_and_is_still_the_parent(
    tune: Tune, register: Register
) -> None:
    assert register(tune("whole", rank=0), "wholes").version == 1
    second = tune("more", rank=0, name_or_path="models:/wholes/1")
    assert read_card(second).kind == "full"
    version = register(second, "wholes")
    assert ancestry(version.uri) == ["models:/wholes/2", "models:/wholes/1"]


def test_a_base_is_no_parent(base_folder: Path) -> None:
    assert parent_of(ModelConfig(name_or_path=str(base_folder))) == Parent()
    assert parent_of(ModelConfig(name_or_path="some/hub-id")) == Parent()


def test_what_is_fetched_has_the_digest_of_what_was_trained(
    adapter: Path, full: Path, register: Register, client: Any
) -> None:
    for folder, name in ((adapter, "a"), (full, "f")):
        version = register(folder, f"digest-{name}")
        assert trained_digest(fetch_registered(version.uri)) == trained_digest(folder)
        tags = client.get_model_version(version.name, "1").tags
        assert tags["ytrainer.model_sha256"] == trained_digest(folder)
