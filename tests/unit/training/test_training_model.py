"""What was trained is what comes back: saved, loaded, merged, and refused on a wrong base."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ytrainer_core.config import LoraConfig, ModelConfig, ObjectiveConfig
from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.objectives.attach import attach_objective
from ytrainer_core.training.model import (
    PROBE_NAME,
    BaseReference,
    ModelCard,
    add_lora,
    base_digest,
    compute_dtype,
    load_model,
    load_tokenizer,
    load_trained,
    locate,
    merge,
    probe_batch,
    probe_logits,
    read_card,
    save_trained,
)

IDS = torch.arange(3, 35).reshape(4, 8)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def stir(model: Any) -> Any:
    """Move every trainable weight, as training does; fresh adapters would change nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def trained(base_folder: Path, tmp_path: Path) -> Callable[[str], tuple[Path, torch.Tensor]]:
    """trained("adapter" | "full") -> (model folder, logits of the live model)."""

    def make(kind: str) -> tuple[Path, torch.Tensor]:
        config = ModelConfig(name_or_path=str(base_folder))
        model = load_model(base_folder, config).cpu()
        if kind == "adapter":
            model = add_lora(model, LoraConfig(rank=4))
        stir(model)
        attach_objective(model, ObjectiveConfig())  # as training leaves it
        reference = BaseReference(str(base_folder), "", base_digest(base_folder))
        card = ModelCard(kind, reference, "float32", run_id="r1", config={"seed": 3})
        save_trained(model, load_tokenizer(base_folder), tmp_path / kind, card, IDS)
        return tmp_path / kind, logits(model)

    return make


@pytest.fixture
def other_base(base_folder: Path, tmp_path: Path) -> Path:
    """The same base, one weight nudged."""
    folder = tmp_path / "other"
    shutil.copytree(base_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_saved_model_comes_back_with_equal_logits(
    kind: str, trained: Callable[[str], Any], base_folder: Path, tokenizer: Any
) -> None:
    folder, expected = trained(kind)
    model, loaded_tokenizer, card = load_trained(folder)
    assert torch.equal(logits(model), expected)
    assert not torch.allclose(expected, logits(load_model(base_folder, ModelConfig())), atol=1e-2)
    assert loaded_tokenizer.encode("four is") == tokenizer.encode("four is")
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    assert (card.kind, card.run_id, card.config) == (kind, "r1", {"seed": 3})
    assert not model.training


def test_the_probe_holds_the_live_models_last_logits(trained: Callable[[str], Any]) -> None:
    folder, expected = trained("adapter")
    probe = load_file(folder / PROBE_NAME)
    assert torch.equal(probe["input_ids"], IDS)
    torch.testing.assert_close(probe["logits"], expected[:, -4:])


def test_an_adapter_on_another_base_is_refused(
    trained: Callable[[str], Any], other_base: Path
) -> None:
    folder, _ = trained("adapter")
    with pytest.raises(CheckpointError, match=r"not the base model.*YTRAINER_BASE_PATH"):
        load_trained(folder, base_override=str(other_base))


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_base_that_moved_is_found_where_it_is_said_to_be(
    how: str,
    trained: Callable[[str], Any],
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, expected = trained("adapter")
    moved = tmp_path / "moved"
    shutil.copytree(base_folder, moved)
    card = read_card(folder)
    gone = dataclasses.replace(card.base, name_or_path="/gone/base")
    tree = dataclasses.asdict(dataclasses.replace(card, base=gone))
    (folder / "ytrainer.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="/gone/base: no such model folder"):
        load_trained(folder)
    if how == "variable":
        monkeypatch.setenv("YTRAINER_BASE_PATH", str(moved))
    model, _, _ = load_trained(folder, base_override=str(moved) if how == "argument" else "")
    assert torch.equal(logits(model), expected)


def test_a_merged_model_speaks_as_the_adapter_does(
    trained: Callable[[str], Any], tmp_path: Path
) -> None:
    folder, expected = trained("adapter")
    merge(folder, tmp_path / "merged")
    model, _, card = load_trained(tmp_path / "merged")
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)
    assert card == dataclasses.replace(read_card(folder), kind="full")
    assert not hasattr(model, "peft_config")
    assert torch.equal(load_file(tmp_path / "merged" / PROBE_NAME)["input_ids"], IDS)


def test_a_full_model_has_nothing_to_merge(trained: Callable[[str], Any], tmp_path: Path) -> None:
    folder, _ = trained("full")
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_byte_changes_the_identity_of_a_base(
    file: str, base_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base_folder, copy)
    assert base_digest(copy) == base_digest(base_folder)
    (copy / "notes.txt").write_text("not part of the model")
    assert base_digest(copy) == base_digest(base_folder)
    content = bytearray((copy / file).read_bytes())
    content[-1] ^= 1
    (copy / file).write_bytes(content)
    assert base_digest(copy) != base_digest(base_folder)


def test_a_folder_without_weights_has_no_identity(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no \*.safetensors"):
        base_digest(tmp_path)


@pytest.mark.parametrize(
    "files, message",
    [([], "no config.json"), (["config.json", "pytorch_model.bin"], r"no \*.safetensors")],
)
def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(
    files: list[str], message: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(ConfigError, match=message):
        locate(ModelConfig(name_or_path=str(tmp_path)))


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no-such-model", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ConfigError, match="no such model folder"):
        locate(ModelConfig(name_or_path=name))


def test_a_model_folder_is_found_with_an_absolute_path(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base_folder.parent)
    assert locate(ModelConfig(name_or_path=f"./{base_folder.name}")) == base_folder


@pytest.mark.parametrize(
    "fault, message",
    [
        ("cut off", "could not be loaded"),
        ("no weight left", "weights are missing"),
        ("one weight missing", "1 weights are missing, first model.norm.weight"),
        ("other shape", "could not be loaded"),
    ],
)
def test_a_damaged_base_is_refused_rather_than_filled_with_random_weights(
    fault: str, message: str, base_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base_folder, copy)
    file = copy / "model.safetensors"
    if fault == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        weights = {} if fault == "no weight left" else load_file(file)
        norm = weights.pop("model.norm.weight", None)
        if fault == "other shape":
            weights["model.norm.weight"] = norm[:-1].clone()
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=message):
        load_model(copy, ModelConfig())


def test_a_folder_without_a_tokenizer_is_a_config_error(base_folder: Path, tmp_path: Path) -> None:
    shutil.copy(base_folder / "config.json", tmp_path)
    with pytest.raises(ConfigError, match="tokenizer files into it"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_a_config_error(base_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base_folder, copy)
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ConfigError, match="tokenizer"):
        load_tokenizer(copy)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "full", "base": {}}', "not json"])
def test_a_damaged_card_is_a_checkpoint_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "ytrainer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"ytrainer.json: missing or damaged"):
        read_card(tmp_path)


def test_adapters_sit_on_every_linear_layer_but_the_head(make_model: Callable[..., Any]) -> None:
    model = add_lora(make_model(), LoraConfig(rank=3, alpha=6))
    adapted = {
        name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A.default" in name
    }
    assert adapted == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert (layer.r["default"], layer.scaling["default"]) == (3, 2.0)


def test_target_modules_that_fit_nothing_name_those_there_are(
    make_model: Callable[..., Any],
) -> None:
    with pytest.raises(ConfigError, match=r"\['attn'\].*down_proj, gate_proj"):
        add_lora(make_model(), LoraConfig(target_modules="attn"))


def test_dtype_auto_is_float32_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_dtype("auto") == torch.float32
    assert compute_dtype("bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    "rows, first, last",
    [
        ([], list(range(32)), list(range(32))),
        ([[1, 2, 3]], ([1, 2, 3] * 11)[:32], ([1, 2, 3] * 11)[:32]),
        ([list(range(40)), [7]], list(range(32)), [7] * 32),
    ],
)
def test_the_probe_is_made_of_the_corpus_rows(
    rows: list[list[int]], first: list[int], last: list[int]
) -> None:
    batch = probe_batch(rows, 300)
    assert batch.shape == (4, 32)
    assert (batch[0].tolist(), batch[3].tolist()) == (first, last)


@pytest.mark.parametrize("training", [True, False])
def test_probing_leaves_the_model_as_it_was(training: bool, make_model: Callable[..., Any]) -> None:
    model = make_model().train(training)
    found = probe_logits(model, IDS)
    assert model.training is training
    torch.testing.assert_close(found, logits(model)[:, -4:])


@pytest.mark.parametrize("fault", ["cut off", "one weight missing", "no weights", "other rank"])
def test_a_damaged_adapter_is_refused_rather_than_filled_with_random_weights(
    fault: str, trained: Callable[[str], Any]
) -> None:
    folder, _ = trained("adapter")
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    if fault == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif fault == "no weights":
        file.unlink()
    else:
        name = sorted(weights)[0]
        weight = weights.pop(name)
        if fault == "other rank":
            weights[name] = weight[:-1].clone()
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"adapter.*damaged"):
        load_trained(folder)
