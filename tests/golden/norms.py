"""Makes the adapters of peft that change norms: `adapters/llama_norms`, `gpt2_norms` and `gpt2_biases`.

    python norms.py GOLDEN_FOLDER

Needs torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors.
"""

import json
import os
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ADAPTERS = {
    # The end of a name is enough for `modules_to_save`: "norm" is every norm of a Llama.
    "llama_norms": (
        "llama_bf16_untied",
        dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["norm"]),
    ),
    # A norm is saved with its bias.
    "gpt2_norms": (
        "gpt2_f32",
        dict(r=2, lora_alpha=4, target_modules=["c_attn"], modules_to_save=["ln_1", "ln_f"], fan_in_fan_out=True),
    ),
    # The biases of norms are among all biases.
    "gpt2_biases": (
        "gpt2_f32",
        dict(r=2, lora_alpha=4, target_modules=["c_attn", "c_proj"], bias="all", fan_in_fan_out=True),
    ),
}


def model(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits.float()


def make(golden, name, base, options):
    folder, to = os.path.join(golden, "models", base), os.path.join(golden, "adapters", name)
    ids = load_file(os.path.join(folder, "logits.safetensors"))["input_ids"][:1, :8]
    torch.manual_seed(7)
    adapted = get_peft_model(model(folder), LoraConfig(task_type="CAUSAL_LM", **options))
    for _, parameter in sorted(adapted.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(to)
    os.remove(os.path.join(to, "README.md"))
    file = os.path.join(to, "adapter_config.json")
    config = json.load(open(file))
    config["target_modules"].sort()
    json.dump(config, open(file, "w"), indent=2, sort_keys=True)

    expected = logits(PeftModel.from_pretrained(model(folder), to).eval(), ids)
    merged = PeftModel.from_pretrained(model(folder), to).merge_and_unload()
    dtype = getattr(torch, json.load(open(os.path.join(folder, "config.json")))["dtype"])
    low = PeftModel.from_pretrained(model(folder, dtype), to).merge_and_unload().state_dict()
    widened = model(folder)
    widened.load_state_dict({tensor: values.float() for tensor, values in low.items()})
    save_file(
        {
            "input_ids": ids.contiguous(),
            "logits_f32": expected,
            "logits_merged_f32": logits(merged, ids)[:1, -4:].contiguous(),
            "logits_merged_lowp": logits(widened, ids)[:1].contiguous(),
        },
        os.path.join(to, "logits.safetensors"),
    )
    effect = (expected - logits(model(folder), ids)).abs().max().item()
    print(name, f"changes logits by {effect:.2f}", sorted(load_file(os.path.join(to, "adapter_model.safetensors")))[:4])


for name, (base, options) in ADAPTERS.items():
    make(sys.argv[1], name, base, options)
