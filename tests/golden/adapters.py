"""Makes adapters of peft in `adapters`, all but those that tests/golden/README.md says came from elsewhere.

    python adapters.py GOLDEN_FOLDER [NAME ...]

Needs torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors.
"""

import json
import os
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FAN = dict(fan_in_fan_out=True)
ADAPTERS = {
    # The end of a name is enough for `modules_to_save`: "norm" is every norm of a Llama.
    "llama_norms": ("llama_bf16_untied", dict(target_modules=["q_proj"], modules_to_save=["norm"])),
    # A norm is saved with its bias.
    "gpt2_norms": ("gpt2_f32", dict(target_modules=["c_attn"], modules_to_save=["ln_1", "ln_f"], **FAN)),
    # The biases of norms are among all biases.
    "gpt2_biases": ("gpt2_f32", dict(target_modules=["c_attn", "c_proj"], bias="all", **FAN)),
    # Matrices that are stored [in, out], whole; their biases three times.
    "gpt2_whole": ("gpt2_f32", dict(target_modules=["c_attn"], modules_to_save=["c_proj"], bias="all", **FAN)),
    # Norms of the rows of such matrices, and of the columns of a table that is the head too.
    "gpt2_dora": ("gpt2_f32", dict(target_modules=["c_attn", "c_proj", "c_fc", "wte"], use_dora=True, **FAN)),
    # A head, and an embedding, of a model that has one matrix for both; and both in step.
    "gpt2_head": ("gpt2_f32", dict(target_modules=["c_attn"], modules_to_save=["lm_head"], **FAN)),
    "gpt2_table": ("gpt2_f32", dict(target_modules=["c_attn"], modules_to_save=["wte"], **FAN)),
    "gemma3_tying": (
        "gemma3_bf16",
        dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    ),
    "gemma3_tying_factors": ("gemma3_bf16", dict(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)),
    # A head that the file calls otherwise than transformers.
    "gpt_neox_head": ("gpt_neox_f16", dict(target_modules=["query_key_value", "lm_head"])),
    # Text and pictures.
    "gemma3_mm_lora": ("gemma3_mm_bf16", dict(target_modules=["q_proj"])),
    # A router that is a linear layer, and experts that are none.
    "gemma4_moe_lora": ("gemma4_moe_bf16", dict(target_modules="all-linear")),
    "qwen2_moe_gate": ("qwen2_moe_bf16", dict(target_modules=["shared_expert_gate"])),
    # Factors in f32 of a table in bf16.
    "qwen3_embed": ("qwen3_bf16", dict(target_modules=["embed_tokens", "k_proj"])),
    "qwen3_dora_embed": ("qwen3_bf16", dict(target_modules=["embed_tokens"], use_dora=True)),
}
# Adapters whose tensors and merged rows are kept: the first rows of these tensors, by their names in the checkpoint.
ROWS = {
    "gemma3_mm_lora": [
        "language_model.model.layers.1.self_attn.q_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    ],
    "qwen3_embed": ["model.embed_tokens.weight"],
    "qwen3_dora_embed": ["model.embed_tokens.weight"],
}
# Adapters with the gradients of the mean square of the logits, by the names of the tensors of the adapter.
GRADIENTS = {"qwen3_dora_embed"}
# peft 0.21.2 merges the change of a matrix that is embedding and head twice, once for each; here it is added once, as in training.
ADDED_TWICE = {"gemma3_tying_factors"}


def model(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits.float()


def merged(name, base, folder):
    """The base with the adapter of a folder in its weights."""
    adapted = PeftModel.from_pretrained(base, folder)
    table = adapted.get_input_embeddings()
    once = None
    if name in ADDED_TWICE:
        weight = table.base_layer.weight.data
        once = weight + table.get_delta_weight("default").to(weight.dtype)
    low = adapted.merge_and_unload()
    if once is not None:
        low.get_input_embeddings().weight.data = once
    return low


def today(tensor):
    """The name of a tensor of a checkpoint in transformers 5."""
    tensor = tensor.replace("language_model.model.", "model.language_model.")
    return tensor.replace("vision_tower.vision_model.", "model.vision_tower.")


def make(golden, name, base, options):
    folder, to = os.path.join(golden, "models", base), os.path.join(golden, "adapters", name)
    ids = load_file(os.path.join(folder, "logits.safetensors"))["input_ids"][:1, :8]
    torch.manual_seed(7)
    adapted = get_peft_model(model(folder), LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, **options))
    for _, parameter in sorted(adapted.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    adapted.peft_config["default"].base_model_name_or_path = base
    # The table beside its factors is that of the model.
    adapted.save_pretrained(to, save_embedding_layers=False)
    os.remove(os.path.join(to, "README.md"))
    file = os.path.join(to, "adapter_config.json")
    config = json.load(open(file))
    config["target_modules"].sort()
    json.dump(config, open(file, "w"), indent=2, sort_keys=True)

    expected = logits(PeftModel.from_pretrained(model(folder), to).eval(), ids)
    config = json.load(open(os.path.join(folder, "config.json")))
    dtype = getattr(torch, config.get("dtype") or config["text_config"]["dtype"])
    low = merged(name, model(folder, dtype), to)
    untied = low.get_input_embeddings().weight is not low.get_output_embeddings().weight
    low = low.state_dict()
    widened = model(folder)
    if untied:
        widened.lm_head = torch.nn.Linear(*widened.lm_head.weight.shape[::-1], bias=False)
    widened.load_state_dict({tensor: values.float() for tensor, values in low.items()})
    kept = {
        "input_ids": ids.contiguous(),
        "logits_f32": expected,
        "logits_merged_f32": logits(merged(name, model(folder), to), ids)[:1, -4:].clone(),
        "logits_merged_lowp": logits(widened, ids)[:1].clone(),
    }
    for tensor in ROWS.get(name, []):
        kept[f"merged_lowp/{tensor}"] = low[today(tensor)][:96].clone()
    if name in GRADIENTS:
        trained = PeftModel.from_pretrained(model(folder), to, is_trainable=True).eval()
        trained(ids).logits.square().mean().backward()
        for parameter, values in trained.named_parameters():
            if values.grad is not None:
                kept[f"gradient/{parameter}"] = values.grad.contiguous()
    save_file(kept, os.path.join(to, "logits.safetensors"))
    effect = (expected - logits(model(folder), ids)).abs().max().item()
    print(name, f"changes logits by {effect:.2f}", sorted(load_file(os.path.join(to, "adapter_model.safetensors")))[:4])


for name, (base, options) in ADAPTERS.items():
    if name in (sys.argv[2:] or ADAPTERS):
        make(sys.argv[1], name, base, options)
