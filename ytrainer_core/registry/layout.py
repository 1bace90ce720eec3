"""The folder that is registered: MLflow's transformers flavor around the very files of training."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core.config import ModelConfig, RegisterConfig
from ytrainer_core.errors import RegistryError
from ytrainer_core.files import write_json
from ytrainer_core.verify import MERGED_TOLERANCE, OTHER_DEVICE_TOLERANCE, find_base

if TYPE_CHECKING:
    from ytrainer_core.training.model import ModelCard

ADAPTER_FOLDER = "peft"
FULL_FOLDER = "model"
TOKENIZER_FOLDER = "components/tokenizer"
"""Where MLflow's transformers flavor puts the parts of a model."""
CONFIG_NAME = "training_config.json"
"""The resolved config of the training, readable beside the model."""

_REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate", "peft", "safetensors")
_DEFAULT_NEW_TOKENS = 256


def form_of(folder: Path, card: ModelCard, config: RegisterConfig) -> str:
    """What will be registered: adapter, full or merged. Raises RegistryError where it cannot."""
    wanted = config.registry.form
    if wanted == "adapter" and card.kind == "full":
        raise RegistryError(
            f"{folder}: is a full model, so registry.form=adapter cannot be had. Set "
            "registry.form=auto."
        )
    return "merged" if wanted == "full" and card.kind == "adapter" else card.kind


def in_form(folder: Path, card: ModelCard, form: str, scratch: Path) -> tuple[Path, float]:
    """The folder to register, and what merging changed.

    The latter is the largest |logit difference| between the adapter on its base and
    the merged model, 0 where nothing was merged.
    """
    if form != "merged":
        return folder, 0.0
    from safetensors.torch import load_file

    from ytrainer_core.training.model import PROBE_NAME, merge

    merged = scratch / "merged"
    merge(folder, merged)  # its probe is of the merged model: that one must reload to 1e-5
    before, after = (load_file(each / PROBE_NAME)["logits"] for each in (folder, merged))
    delta = float((after - before).abs().max())
    allowed = MERGED_TOLERANCE
    if card.dtype != "float32":
        allowed = OTHER_DEVICE_TOLERANCE[card.dtype] * float(before.abs().max())
    if not delta <= allowed:
        raise RegistryError(
            f"{folder}: merging the adapter changes its logits by up to {delta:.3g}, allowed is "
            f"{allowed:.3g}. Register it as an adapter (registry.form=adapter)"
            + ("." if card.dtype == "float32" else ", or train with model.dtype=float32.")
        )
    return merged, delta


def lay_out(trained: Path, logged: Any, staged: Path, model: ModelConfig) -> Path:
    """Lay a model folder out as MLflow's transformers flavor, without loading any weights.

    The model handed to MLflow is a shell on the meta device that 'saves' by
    linking the trained files: no memory for a base of any size, and what is
    stored is byte for byte what was trained.
    """
    import torch
    from mlflow.models import Model
    from mlflow.transformers import save_model
    from transformers import AutoConfig, AutoModelForCausalLM, pipeline

    from ytrainer_core.training.model import CARD_NAME, PROBE_NAME, load_tokenizer, read_card
    from ytrainer_core.training.parents import ORIGIN_NAME

    card = read_card(trained)
    trust = model.trust_remote_code
    tokenizer = load_tokenizer(trained, trust_remote_code=trust)
    is_adapter = card.kind == "adapter"
    weights = find_base(card.base.name_or_path, card.base.revision) if is_adapter else trained
    architecture = AutoConfig.from_pretrained(weights, trust_remote_code=trust)
    with torch.device("meta"):
        shell: Any = AutoModelForCausalLM.from_config(
            architecture, dtype=getattr(torch, card.dtype), trust_remote_code=trust
        )
        if is_adapter:
            from peft import PeftConfig, PeftModelForCausalLM

            shell = PeftModelForCausalLM(shell, PeftConfig.from_pretrained(trained))
    pattern = "adapter_*" if is_adapter else "[!.]*"
    apart = (CARD_NAME, PROBE_NAME, ORIGIN_NAME)
    stored = [file for file in trained.glob(pattern) if file.name not in apart]

    def save_pretrained(save_directory: str | Path, **_: object) -> None:
        _link(stored, Path(save_directory))

    shell.save_pretrained = save_pretrained
    with _without_pipeline_errors():  # it knows no PeftModel, and says so as an error
        text_generation = pipeline(
            "text-generation", model=shell, tokenizer=tokenizer, device=torch.device("meta")
        )
    save_model(
        text_generation,
        str(staged),
        task="text-generation",
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            run_id=logged.source_run_id,
        ),
        signature=_signature(),
        pip_requirements=[f"{name}=={_public_version(name)}" for name in _REQUIREMENTS],
        prompt_template=_prompt_template(tokenizer, card),
        model_card=_model_card(card),
        base_model_path=str(weights) if is_adapter else None,
    )
    (staged / "LICENSE.txt").unlink(missing_ok=True)  # MLflow's guess, with a link to nowhere
    _link([trained / CARD_NAME, trained / PROBE_NAME], staged)
    write_json(staged / CONFIG_NAME, card.config)
    return staged


def _link(files: list[Path], folder: Path) -> None:
    """Hard-link files into a folder; copy them where it lies on another file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not file.is_file():
            continue
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copyfile(file, folder / file.name)


def _signature() -> Any:
    """Text in, text out; without the params, pyfunc would ignore max_new_tokens."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text = Schema([ColSpec(DataType.string)])
    params = ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, _DEFAULT_NEW_TOKENS),
            ParamSpec("do_sample", DataType.boolean, False),
            ParamSpec("temperature", DataType.double, 1.0),
            ParamSpec("top_p", DataType.double, 1.0),
        ]
    )
    return ModelSignature(inputs=text, outputs=text, params=params)


def _prompt_template(tokenizer: Any, card: ModelCard) -> str:
    """The tokenizer's chat template around '{prompt}', as MLflow's pyfunc fills it in."""
    if not tokenizer.chat_template:
        return "{prompt}"
    mark = "YTRAINER-PROMPT"
    messages = [{"role": "user", "content": mark}]
    if system := card.config.get("data", {}).get("system_prompt"):
        messages.insert(0, {"role": "system", "content": system})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        text = text.removeprefix(bos)  # the pipeline's tokenizer puts it there
    before, _, after = (part.replace("{", "{{").replace("}", "}}") for part in text.partition(mark))
    return f"{before}{{prompt}}{after}"


def _model_card(card: ModelCard) -> Any:
    """Given, so that MLflow does not look for one on the hub."""
    from huggingface_hub import ModelCard as HubModelCard

    return HubModelCard(
        f"---\nbase_model: {json.dumps(card.base.name_or_path)}\n---\n\n"
        f"Trained by ytrainer {card.ytrainer_version}; ytrainer.json says from what.\n"
    )


def _public_version(package: str) -> str:
    """2.13.0 for 2.13.0+cpu: package indexes know no local versions."""
    return installed_version(package).partition("+")[0]


@contextmanager
def _without_pipeline_errors() -> Iterator[None]:
    logger = logging.getLogger("transformers.pipelines.base")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
