"""A training step with tensors that have a shape but no memory, to see what it would hold.

The model's own forward, our loss, recomputation and the backward pass run under torch's fake
tensors; every storage is counted from its first sight to its end. So the count knows of what
no formula does (autocast's copies, a tied head's two gradients, an adapter's inputs), for any
architecture that fake tensors carry, and needs neither weights nor a GPU.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ytrainer_core.objectives import OBJECTIVES
from ytrainer_core.objectives.attach import causal_lm
from ytrainer_core.training.job import TrainJob
from ytrainer_core.training.prepared import prepared


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model at a time.

    packs: tokens of every document, by pack. targets: positions with a label.
    """

    packs: tuple[tuple[int, ...], ...]
    targets: int

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(sum(pack) for pack in self.packs)


@dataclass(frozen=True)
class Rehearsed:
    """Bytes that live at the greatest moment of a micro-batch, by what they are.

    weights: of all models at hand. gradients: of the trained weights, with those being formed.
    """

    weights: int
    gradients: int
    activations: int
    logits_chunk: int


def rehearse(
    model: Any,
    job: TrainJob,
    batch: MicroBatch,
    *,
    device: str,
    teacher: Any = None,
    autocast: bool = True,
    accumulated: bool = False,
) -> Rehearsed:
    """Forward and backward pass of a micro-batch on `device`, in shapes only.

    model, teacher: on the meta device, as they are trained (adapters on, frozen what is frozen);
    their weights become fake ones. accumulated: the gradients of an earlier micro-batch are
    there already. Raises whatever fake tensors cannot carry, such as a model that chooses its
    next operation by a tensor's values.
    """
    sizes = {p.numel() * width for p in model.parameters() if p.requires_grad for width in (2, 4)}
    memory = _Memory(sizes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(FakeTensorMode())
        stack.enter_context(memory)
        for one in filter(None, (model, teacher)):
            _make_fake(one, device)
        model.train()
        flat = stack.enter_context(prepared(model, job, teacher))
        memory.kind = "activations"
        low = autocast and job.dtype != torch.float32
        inputs = _inputs(batch, device, flat=flat, told=device == "cpu" or not low)
        if OBJECTIVES[job.objective.name].base_nll:
            inputs["token_weights"] = torch.empty(inputs["labels"].shape, device=device)
        for _ in range(2 if accumulated else 1):
            memory.start()
            lower = torch.autocast(device, dtype=job.dtype if low else None, enabled=low)
            with memory.head_after(model), lower:
                outputs = model(**inputs, num_items_in_batch=batch.targets)
            memory.kind = "backward"
            outputs.loss.backward()
            del outputs
        return memory.greatest()


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages by kind while they live, and keeps the counts of the greatest moment."""

    def __init__(self, gradient_bytes: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = "weights"
        self._gradient_bytes = gradient_bytes
        self._seen: Any = WeakIdKeyDictionary()
        self._now: Counter[str] = Counter()
        self._peak: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage())
        return out

    def _watch(self, storage: Any) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        kind = self.kind
        if kind in ("logits_chunk", "backward") and size in self._gradient_bytes:
            kind = "gradients"
        elif kind == "backward":  # recomputed, or on the way between two layers
            kind = "activations"
        changes = Counter({kind: size, "total": size})
        self._seen[storage] = True
        self._now.update(changes)
        weakref.finalize(storage, self._now.subtract, changes)
        if self._now["total"] > self._peak["total"]:
            self._peak = self._now.copy()

    def start(self) -> None:
        """A micro-batch begins; what is there now is weights, inputs and earlier gradients."""
        self.kind = "activations"
        self._peak = self._now.copy()

    @contextlib.contextmanager
    def head_after(self, model: Any) -> Iterator[None]:
        """Count as logits chunk what is made after the model's body, until the forward ends."""

        def leave(*_: object) -> None:
            self.kind = "logits_chunk"

        handle = causal_lm(model).get_decoder().register_forward_hook(leave)
        try:
            yield
        finally:
            handle.remove()

    def greatest(self) -> Rehearsed:
        """What lived at the greatest moment since `start`."""
        names = ("weights", "gradients", "activations", "logits_chunk")
        return Rehearsed(**{name: self._peak[name] for name in names})


def _make_fake(model: Any, device: str) -> None:
    """Give a model on the meta device fake weights on `device`; what was shared stays shared."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device=device)
                    if isinstance(old, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=old.requires_grad)
                    made[id(old)] = new
                own[name] = made[id(old)]


class _Bounds:
    """cu_seq_lens whose lengths may be asked for; a fake tensor has no values to tell."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)

    def diff(self) -> _Bounds:
        return self

    def tolist(self) -> list[int]:
        return self._lengths


def _inputs(batch: MicroBatch, device: str, *, flat: bool, told: bool) -> dict[str, Any]:
    """A batch as `collate_packs` makes it. told: the attention asks for the documents' lengths."""
    documents = [length for pack in batch.packs for length in pack]
    shape = (1, batch.tokens) if flat else (len(batch.packs), max(map(sum, batch.packs)))
    names = ("input_ids", "labels", "position_ids")
    inputs: dict[str, Any] = {
        name: torch.empty(shape, dtype=torch.int64, device=device) for name in names
    }
    inputs["target_positions"] = torch.empty(batch.targets, dtype=torch.int64, device=device)
    if flat:
        bounds: Any = _Bounds(documents)
        if not told:
            bounds = torch.empty(len(documents) + 1, dtype=torch.int32, device=device)
        inputs |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        inputs |= {"max_length_q": max(documents), "max_length_k": max(documents)}
    return inputs
