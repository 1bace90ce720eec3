"""What a trained token costs, what the device could do, and the share of it that was used.

MFU, the model FLOPs utilisation of PaLM (arXiv 2204.02311, appendix B): only the operations
that the mathematics needs count, so that recomputed activations make a training slower but
not "better used".
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ytrainer_core.objectives.attach import causal_lm

_PROBE_SECONDS = 0.25
"""Time that measuring an unknown device may take."""

_PROBE_SIZES = (256, 512, 1024, 2048, 4096, 8192)
"""Edges of the probe's square matrices; each is tried only if it fits into the time left."""

# Words of torch.cuda.get_device_name -> (bfloat16 or float16, float32) TFLOP/s: dense, tensor
# cores accumulating in float32, without sparsity; float32 without tensor cores. NVIDIA's data
# sheets and architecture white papers. The more particular name comes first.
PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.5, 67.0),
    ("H200 NVL", 835.5, 60.0),
    ("H200", 989.5, 67.0),
    ("H100 PCIE", 756.5, 51.0),
    ("H100 NVL", 835.5, 60.0),
    ("H100", 989.5, 67.0),
    ("H800", 989.5, 67.0),
    ("H20", 148.0, 44.0),
    ("A100", 312.0, 19.5),
    ("A800", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A10", 125.0, 31.2),
    ("A6000", 154.8, 38.7),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 30.3),
    ("6000 ADA", 364.2, 91.1),
    ("5090", 209.5, 104.8),
    ("4090", 165.2, 82.6),
    ("4080", 97.5, 48.7),
    ("3090", 71.0, 35.6),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
)

_TF32_CAPABILITY = (8, 0)
"""First compute capability whose tensor cores take float32 operands rounded to TF32."""


# --- what a token costs --------------------------------------------------------------------------


def flops_per_token(
    model: Any, sequence_length: float, *, targets_fraction: float = 1.0, lora: bool = False
) -> float:
    """Floating-point operations of forward and backward pass per token of the batch.

    model: a causal language model (also wrapped, also on the meta device), or the transformers
    config of one. Which weights are trained is read off the model; for a config all are, or with
    `lora` none, as in a LoRA whose adapters are too small to count.
    sequence_length: tokens of a document; for a mixture sum(length ** 2) / sum(length), since a
    token sees on average half of its own document. targets_fraction: share of the tokens that
    carry a label, as only these reach the head.

    A product of x [1, in] with a weight of n = in x out entries takes 2n. Counted are
        2n    forward, for every weight a token meets (of the experts, those that are active)
        2n    backward to x, where something trained lies before the weight
        2n    backward to the weight, where it is trained
        12 L d s/2 for causal attention over L layers of d = heads x head_dim and s tokens, a
              third of it forward
    which makes 6N for a full training and 4N for LoRA with N weights. Looking up embeddings,
    norms, softmax and activations are left out. Source: Kaplan et al. (arXiv 2001.08361, section
    2.1) and PaLM (arXiv 2204.02311, appendix B), with its attention term halved as half of the
    scores are masked.
    """
    if not isinstance(model, nn.Module):
        model = _on_meta(model, trainable=not lora)
    inner = causal_lm(model)
    config: Any = inner.config.get_text_config()
    head = inner.get_output_embeddings()

    forward = backward = body = met_behind = 0.0
    flows = False  # whether a trained weight lies before the one at hand
    for n, trained, is_head in _products(model, head, config):
        share = targets_fraction if is_head else 1.0
        forward += 2 * n * share
        backward += 2 * n * share * (flows + trained)
        if not is_head:
            met_behind += n * flows
        flows = flows or trained
        body += 0 if is_head else n
    attention = 4 * _keys_seen(config, sequence_length) * _attention_width(config)
    attention *= 1 + 2 * met_behind / max(body, 1.0)
    return forward + backward + attention


def _products(model: nn.Module, head: Any, config: Any) -> Iterator[tuple[float, bool, bool]]:
    """(entries a token meets, trained, is the head) of every weight, in the model's order.

    An embedding counts no entry, since it is looked up, yet tells that gradients flow.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield 0.0, module.weight.requires_grad, False
        elif isinstance(module, nn.Linear):  # also one in 4 bits, whose weight is packed
            n = float(module.in_features * module.out_features)
            yield n, module.weight.requires_grad, module is head
        else:
            for weight in module.parameters(recurse=False):
                if weight.ndim >= 2:
                    yield _active_entries(weight, config), weight.requires_grad, module is head


def _active_entries(weight: Tensor, config: Any) -> float:
    """Entries of a weight that one token meets; a stack of experts counts the active ones."""
    entries = float(_shape(weight).numel())
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if experts and weight.ndim == 3 and weight.shape[0] == experts:
        return entries * int(config.num_experts_per_tok) / int(experts)
    return entries


def _shape(weight: Any) -> torch.Size:
    """A weight's own shape, also where it is packed in 4 bits or sharded by ZeRO-3."""
    if hasattr(weight, "ds_shape"):
        return torch.Size(weight.ds_shape)
    return torch.Size(getattr(getattr(weight, "quant_state", None), "shape", weight.shape))


def _attention_width(config: Any) -> float:
    heads = config.num_attention_heads
    return float(heads * (getattr(config, "head_dim", None) or config.hidden_size // heads))


def _keys_seen(config: Any, sequence_length: float) -> float:
    """Keys that a token sees on average, summed over the layers."""
    half = sequence_length / 2
    window = getattr(config, "sliding_window", None) or math.inf
    seen = {"full_attention": half, "sliding_attention": min(half, window)}
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return sum(seen.get(kind, 0.0) for kind in kinds)  # linear attention sees a state, not keys


def _on_meta(config: Any, *, trainable: bool) -> Any:
    """A model of this shape without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return model if trainable else _with_flow(model.requires_grad_(False))


def _with_flow(model: Any) -> Any:
    """A frozen model whose embedding stands for the adapters below every weight of the body."""
    model.get_input_embeddings().weight = nn.Parameter(
        model.get_input_embeddings().weight.detach(), requires_grad=True
    )
    return model


# --- what the device could do --------------------------------------------------------------------


def peak_flops(device: torch.device | str, dtype: torch.dtype) -> float:
    """Dense FLOP/s of one device in `dtype`: published for known GPUs, else measured.

    Measuring takes at most 0.3 seconds once per process; on a CPU it tells what the process'
    threads reach with a large matrix product, which is the ceiling for any training here.
    """
    device = torch.device(device)
    return _published_peak(device, dtype) or _measured_peak(device, dtype, torch.get_num_threads())


def published_peak(name: str, dtype: torch.dtype, *, tf32: bool = False) -> float | None:
    """FLOP/s of a GPU by its name; None where it is unknown, or a slice of one (MIG)."""
    words = f" {' '.join(re.split(r'[^A-Z0-9]+', name.upper()))} "
    if " MIG " in words:
        return None
    for known, half, single in PEAKS:
        if f" {known} " in words:
            if dtype in (torch.bfloat16, torch.float16):
                return half * 1e12
            if dtype == torch.float32:
                return (half / 2 if tf32 else single) * 1e12
    return None


def _published_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    if device.type != "cuda":
        return None
    tf32 = torch.get_float32_matmul_precision() != "highest"
    tf32 = tf32 and torch.cuda.get_device_capability(device) >= _TF32_CAPABILITY
    return published_peak(torch.cuda.get_device_name(device), dtype, tf32=tf32)


@functools.cache
def _measured_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Best FLOP/s of square matrix products, growing while there is time."""
    deadline = time.perf_counter() + _PROBE_SECONDS
    best = 0.0
    for size in _PROBE_SIZES:
        if best and 2 * 2 * size**3 / best > deadline - time.perf_counter():
            break
        a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(2):  # the first one also loads the kernel
            started = time.perf_counter()
            torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


# --- the share that was used ---------------------------------------------------------------------


@dataclass(frozen=True)
class Throughput:
    """What went through a model, and in what time.

    tokens: all of them without padding, over all processes; target_tokens: those with a label.
    seconds: training alone. sequence_length: as in `flops_per_token`. processes: devices at work.
    """

    tokens: int
    target_tokens: int
    seconds: float
    sequence_length: float
    processes: int = 1

    @property
    def rate(self) -> float:
        """Tokens per second; 0 where nothing was trained."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def flops_per_token(self, model: Any) -> float:
        """The cost of one of these tokens, forward and backward."""
        share = self.target_tokens / self.tokens if self.tokens else 1.0
        return flops_per_token(model, self.sequence_length, targets_fraction=share)


def mfu(model: Any, reached: Throughput, dtype: torch.dtype | None = None) -> float:
    """Share of the devices' peak that a training used, 0 to about 1.

    dtype: precision of the computation (under autocast another than the weights'); None takes
    that of the weights.
    """
    if not reached.rate:
        return 0.0
    device, dtype = _computing(model, dtype)
    peak = peak_flops(device, dtype) * reached.processes
    return reached.flops_per_token(model) * reached.rate / peak


def throughput_summary(
    model: Any, reached: Throughput, dtype: torch.dtype | None = None
) -> dict[str, str]:
    """Rows of a summary: parameters, FLOPs per token, tokens per second, MFU; dtype as in `mfu`."""
    total, trained = parameter_counts(model)
    rows = {
        "parameters": f"{total:,}" + (f" ({trained:,} trained)" if trained < total else ""),
        "FLOPs per token": _si(reached.flops_per_token(model), "FLOP"),
    }
    if not reached.rate:
        return rows
    device, dtype = _computing(model, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    known = "published" if _published_peak(device, dtype) else "measured"
    peak = _si(peak_flops(device, dtype), "FLOP/s")
    devices = f"{reached.processes} x " if reached.processes > 1 else ""
    rows["tokens/s"] = f"{reached.rate:,.0f}"
    rows["MFU"] = f"{mfu(model, reached, dtype):.1%} of {devices}{peak} ({name}, {known})"
    return rows


def parameter_counts(model: Any) -> tuple[int, int]:
    """(all, trained) weights of a model, shared ones once."""
    sizes = [(_shape(weight).numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def _computing(model: Any, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    weight = next(model.parameters())
    return weight.device, dtype or weight.dtype


def _si(number: float, unit: str) -> str:
    """1234567 -> '1.23 MFLOP'."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"
