"""Run by test_objectives_sharded: greatest difference of gradients, sharded by FSDP and not."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

from ytrainer_core.config import ObjectiveConfig
from ytrainer_core.objectives.attach import attach_objective, causal_lm

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}


def make(adapted: bool) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))
    if adapted:
        targets = ["lm_head", "q_proj"]
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    attach_objective(model, ObjectiveConfig(name="nlirg"))
    return model.eval()


def shard(model: Any, adapted: bool) -> None:
    mesh = init_device_mesh("cpu", (1,))
    head = causal_lm(model).lm_head
    parts = [head.base_layer, *head.lora_A.values(), *head.lora_B.values()] if adapted else [head]
    for part in [*causal_lm(model).model.layers, *parts, model]:
        fully_shard(part, mesh=mesh)


def difference(adapted: bool) -> float:
    whole, sharded = make(adapted), make(adapted)
    shard(sharded, adapted)
    ids = torch.randint(100, (2, 12), generator=torch.Generator().manual_seed(1))
    for model in (whole, sharded):
        model(input_ids=ids, labels=ids).loss.backward()
    pairs = zip(whole.parameters(), sharded.parameters(), strict=True)
    return max(
        (b.grad.full_tensor() - a.grad).abs().max().item() for a, b in pairs if a.grad is not None
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1
    )
    print("differences", difference(adapted=False), difference(adapted=True))
    torch.distributed.destroy_process_group()
