"""Makes the golden model of a family: a tiny random checkpoint, and what transformers answers.

    python family.py MODEL_TYPE FOLDER '{"hidden_size": 48, "num_hidden_layers": 2, ...}'

Weights are seeded, away from the neutral values of norms and biases, so that a norm or a bias that is left out shows.
`logits.safetensors` is computed from the saved bf16 weights, in f32, with eager attention. A file
`config.transformers-4.57.json`, the same configuration in the words of transformers 4, is written by hand from
`config.json`: `rope_theta` and `rope_scaling` in place of `rope_parameters`, `torch_dtype` in place of `dtype`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def fill(model):
    generator = torch.Generator().manual_seed(20261129)
    for _, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 1:
            weight.data = weight.data + 0.2 * noise
        else:
            weight.data = noise * weight.shape[-1] ** -0.5


def main(model_type, folder, fields):
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **json.loads(fields)})
    model = AutoModelForCausalLM.from_config(config)
    fill(model)
    model.to(torch.bfloat16).save_pretrained(folder)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    tensors = {"input_ids": ids, "logits_f32": model(ids).logits}
    states = model(ids[:1, :12], output_hidden_states=True).hidden_states
    tensors |= {f"hidden.{nth}": state for nth, state in enumerate(states)}
    greedy = ids[:, :8]
    for _ in range(16):
        greedy = torch.cat([greedy, model(greedy).logits[:, -1:].argmax(-1)], 1)
    tensors["greedy"] = greedy
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / "logits.safetensors")


main(*sys.argv[1:])
