"""Models in and out: load a base, put adapters on it, save what was trained.

A trained model is a folder: adapter or full weights (safetensors), tokenizer,
`ytrainer.json` (where it came from) and `probe.safetensors` (what its logits
were when training ended, so that every later copy can be proved).
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ytrainer_core.config import LoraConfig, ModelConfig
from ytrainer_core.errors import CheckpointError, ConfigError
from ytrainer_core.files import sha256_file, sha256_json, write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CARD_NAME = "ytrainer.json"
PROBE_NAME = "probe.safetensors"
BASE_PATH_VARIABLE = "YTRAINER_BASE_PATH"
"""Environment variable: where the base model lies now, if not where it was trained."""

_DIGEST_PATTERNS = ("*.safetensors", "config.json", "tokenizer.json")
PROBE_ROWS = 4
PROBE_TOKENS = 32
PROBE_POSITIONS = 4
"""The probe keeps 4 rows x last 4 positions: 10 MB of logits at 152 k entries."""


@dataclass(frozen=True)
class BaseReference:
    """Which base model an adapter belongs to."""

    name_or_path: str
    revision: str
    sha256: str


@dataclass(frozen=True)
class ModelCard:
    """Where a trained model came from; stored as ytrainer.json beside it.

    parent: models:/NAME/VERSION whose weights training went on from; parent_sha256: identity of
    that folder, registered or not. Empty where training began at the base.
    """

    kind: str
    base: BaseReference
    dtype: str
    data_sha256: str = ""
    run_id: str = ""
    ytrainer_version: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    parent: str = ""
    parent_sha256: str = ""


def base_digest(folder: Path) -> str:
    """Identity of a base model: sha256 over its weights, config and tokenizer files."""
    files = {
        file.name: sha256_file(file)
        for pattern in _DIGEST_PATTERNS
        for file in sorted(folder.glob(pattern))
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(
            f"{folder}: holds no *.safetensors weights. Point model.name_or_path at the folder "
            "that from_pretrained() reads, or convert the weights to safetensors."
        )
    return sha256_json(files)


def locate(config: ModelConfig) -> Path:
    """Folder of a base model: a local one, or a hub id downloaded to the hub cache.

    Raises ConfigError where there is no such folder, no weights, or no such hub id.
    """
    folder = Path(config.name_or_path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ConfigError(
                f"{folder}: has no config.json, so it is not a model folder. model.name_or_path "
                "is a hub id or a folder that from_pretrained() reads."
            )
        if not any(folder.glob("*.safetensors")):
            raise ConfigError(
                f"{folder}: has no *.safetensors weights. Download the model again, or save it "
                "with save_pretrained(safe_serialization=True)."
            )
        return folder.absolute()
    if config.name_or_path.startswith((".", "/", "~")) or config.name_or_path.count("/") > 1:
        raise ConfigError(f"{config.name_or_path}: no such model folder. Check model.name_or_path.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                config.name_or_path,
                revision=config.revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"model.name_or_path '{config.name_or_path}' is neither a folder here nor a model "
            f"that could be fetched from the hub ({type(error).__name__}). Check the spelling "
            "and the network, or download it first and give the folder."
        ) from error


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder. Raises ConfigError where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder}: no tokenizer could be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Copy the base model's tokenizer files into it."
        ) from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise ConfigError(  # transformers gives an empty tokenizer where the files are missing
            f"{folder}: its tokenizer knows no text. Copy the base model's tokenizer files into it."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def compute_dtype(name: str) -> torch.dtype:
    """The torch dtype of model.dtype: auto is bfloat16 where a GPU has it, else float32."""
    import torch

    if name == "auto":
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_model(folder: Path, config: ModelConfig, *, dtype: torch.dtype | None = None) -> Any:
    """A causal language model from a folder, on the GPU where there is one.

    Raises ConfigError where its files are damaged or lack a weight.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or compute_dtype(config.dtype),
            # auto: sdpa, which training replaces by attention within documents
            attn_implementation=config.attn_implementation.replace("auto", "sdpa"),
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **_quantization(config),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: the model could not be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Check that the folder is complete."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random values
        raise ConfigError(
            f"{folder}: {len(missing)} weights are missing, first {missing[0]}. The folder is "
            "incomplete or of another architecture than its config.json says; download it again."
        )
    if config.quantization != "none" or any(hasattr(p, "ds_id") for p in model.parameters()):
        return model  # bitsandbytes and DeepSpeed have put it where it belongs
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _quantization(config: ModelConfig) -> dict[str, Any]:
    """What from_pretrained() needs for a base in 4 bits (QLoRA, arXiv 2305.14314: NF4, twice)."""
    if config.quantization == "none":
        return {}
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.quantization=4bit needs bitsandbytes, which is not installed. "
            "pip install bitsandbytes, or set model.quantization=none."
        )
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(config.dtype),
        )
    }


def add_lora(model: Any, config: LoraConfig) -> Any:
    """Wrap a model with trainable low-rank adapters; everything else is frozen."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model, prepare_model_for_kbit_training

    targets = config.target_modules
    peft_config = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=True if config.init == "default" else config.init,
        task_type="CAUSAL_LM",
    )
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    try:
        adapted = get_peft_model(model, peft_config)
        if config.init == "pissa":
            _keep_first_values(adapted)
        return adapted
    except ValueError as error:
        linear = sorted({name.rsplit(".", 1)[-1] for name, _ in _linear_modules(model)})
        raise ConfigError(
            f"lora.target_modules {list(targets)} fits no module of this model. "
            f"It has: {', '.join(linear)}."
        ) from error


def _keep_first_values(model: Any) -> None:
    """Store PiSSA's first adapter: it was taken out of the base, which is saved nowhere.

    With it the saved adapter is a plain LoRA on the original base (twice the rank).
    """
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="pissa_")  # peft names an adapter after it
    first = model.peft_config["default"]
    first.init_lora_weights = True  # so that loading it computes no decomposition
    model.save_pretrained(folder.name)
    first.init_lora_weights = "pissa"
    model.ytrainer_first_adapter = folder  # lives as long as the model


def continue_adapter(model: Any, folder: Path) -> Any:
    """The model with an earlier adapter on it, to be trained on. Its rank and targets stay."""
    return _put_adapter(model, folder, is_trainable=True)


def _linear_modules(model: Any) -> list[tuple[str, Any]]:
    import torch

    return [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]


def device_name(model: Any) -> str:
    """What computes a model: 'cpu', or the GPU's name; stored with the probe."""
    import torch

    device: torch.device = model.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def probe_logits(model: Any, input_ids: Tensor) -> Tensor:
    """Logits [rows, PROBE_POSITIONS, vocab] (fp32, CPU) at the probe's last positions."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(
            input_ids=input_ids.to(model.device), use_cache=False, logits_to_keep=PROBE_POSITIONS
        ).logits
    model.train(was_training)
    on_cpu: Tensor = logits.float().cpu()
    return on_cpu


def probe_batch(rows: list[list[int]], vocab_size: int) -> Tensor:
    """Token ids [PROBE_ROWS, PROBE_TOKENS] for the probe: the corpus' rows, repeated to fill."""
    import torch

    if not rows:
        rows = [list(range(min(PROBE_TOKENS, vocab_size)))]
    filled = [(row * (PROBE_TOKENS // max(1, len(row)) + 1))[:PROBE_TOKENS] for row in rows]
    return torch.tensor([filled[i % len(filled)] for i in range(PROBE_ROWS)])


def save_trained(
    model: Any,
    tokenizer: Any,
    folder: Path,
    card: ModelCard,
    probe: Tensor,
    *,
    weights: dict[str, Tensor] | None = None,
    logits: Tensor | None = None,
) -> None:
    """Write a trained model folder: weights, tokenizer, card, probe.

    probe: token ids [rows, tokens] whose logits by the live model are stored. weights, logits:
    those of a model that is split over processes, where this one could not ask it alone.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    first = getattr(model, "ytrainer_first_adapter", None)
    options = {"path_initial_model_for_weight_conversion": first.name} if first else {}
    model.save_pretrained(folder, state_dict=weights, **options)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    logits = probe_logits(model, probe) if logits is None else logits
    tensors = {"input_ids": probe.cpu(), "logits": logits}
    save_file(tensors, folder / PROBE_NAME, metadata={"device": device_name(model)})
    write_json(folder / CARD_NAME, asdict(card))


def read_card(folder: Path) -> ModelCard:
    """The card of a trained model folder. Raises CheckpointError where there is none."""
    path = folder / CARD_NAME
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return ModelCard(**{**tree, "base": BaseReference(**tree["base"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: missing or damaged, so {folder} is not a model that ytrainer trained. "
            "Give the 'model' folder of a finished training."
        ) from error


def load_trained(
    folder: Path, config: ModelConfig | None = None, base_override: str = ""
) -> tuple[Any, Any, ModelCard]:
    """(model, tokenizer, card) of a trained model folder, in eval mode.

    An adapter comes back as a PeftModel on its base, whose digest must be the one
    it was trained on. base_override (or YTRAINER_BASE_PATH): where the base lies now.
    """
    card = read_card(folder)
    config = config or ModelConfig(name_or_path=str(folder))
    config = config.model_copy(update={"dtype": card.dtype})
    tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    if card.kind == "full":
        return load_model(folder, config).eval(), tokenizer, card
    name = base_override or os.environ.get(BASE_PATH_VARIABLE) or card.base.name_or_path
    base_folder = locate(
        config.model_copy(update={"name_or_path": name, "revision": card.base.revision})
    )
    if base_digest(base_folder) != card.base.sha256:
        raise CheckpointError(
            f"{base_folder}: is not the base model that {folder} was trained on (sha256 differs). "
            f"Set {BASE_PATH_VARIABLE} to the folder of the original base."
        )
    return _put_adapter(load_model(base_folder, config), folder).eval(), tokenizer, card


def _put_adapter(base: Any, folder: Path, *, is_trainable: bool = False) -> Any:
    """The base with the folder's adapter on it. Raises CheckpointError where it is damaged."""
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():  # peft would go on with random values
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, folder, is_trainable=is_trainable)
    except (OSError, ValueError, RuntimeError, SafetensorError, UserWarning) as error:
        raise CheckpointError(
            f"{folder}: the adapter is damaged ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}). Take another copy of it, or train it again."
        ) from error


def merge(folder: Path, out: Path, base_override: str = "") -> None:
    """Merge an adapter into its base and write a full model folder."""

    model, tokenizer, card = load_trained(folder, base_override=base_override)
    if card.kind != "adapter":
        raise ConfigError(f"{folder}: is a full model already; there is nothing to merge.")
    from safetensors.torch import load_file

    probe: torch.Tensor = load_file(folder / PROBE_NAME)["input_ids"]
    merged_card = ModelCard(**{**asdict(card), "base": card.base, "kind": "full"})
    save_trained(model.merge_and_unload(), tokenizer, out, merged_card, probe)
