#!/usr/bin/env python3
"""hqq reads what `firebox quantize` writes for it: each layer's tensors, as its `save_to_safetensors` has them.

    python tests/peers/hqq_read.py [--firebox PROGRAM] [--only GLOB]

Every weight that hqq gives back in f32 equals ours bit for bit, with the scales and zeros of the file widened; and logits
agree that transformers computes in f32 with these weights.
"""

from common import BF16, F32, Run

from with_torch import logits_of, numpy, torch

from hqq.core.quantize import HQQBackend, HQQLinear
from safetensors.torch import load_file

SPECS = [
    "hqq",
    "hqq:bits=8,group=128",
    "hqq:bits=6",
    "hqq:bits=5,group=32",
    "hqq:bits=3,group=64",
    "hqq:bits=2,group=16",
    "hqq:bits=1.58,group=16",
    "hqq:bits=1,group=8",
    "hqq:bits=4,group=64,axis=0",
    "hqq:bits=3,group=64,axis=0",
    "hqq:bits=4,group=line",
    "hqq:bits=4,group=line,axis=0",
    "hqq:bits=4,group=64,unsolved",
    "hqq:bits=4,group=all,unsolved",
    "hqq:bits=8,group=all,unsolved",
]
CASES = [(model, spec) for model in [BF16, F32] for spec in SPECS]
SCALARS = {"shape", "nbits", "group_size", "axis", "packing", "stores_quant_config"}


def layers(made):
    """hqq's layers by the name of the weight, and the tensors that belong to none."""
    modules = {}
    for name, tensor in load_file(made / "model.safetensors").items():
        module, _, field = name.rpartition(".")
        modules.setdefault(module, {})[field] = tensor
    found, rest = {}, {}
    for module, fields in modules.items():
        if "W_q" not in fields:
            rest |= {f"{module}.{field}": tensor for field, tensor in fields.items()}
            continue
        if missing := SCALARS - set(fields):
            raise RuntimeError(f"{module} has no {sorted(missing)}")
        layer = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu", initialize=False)
        layer.load_state_dict(dict(fields))
        found[f"{module}.weight"] = layer
    return found, rest


def widened(layer):
    """A layer's weight in f32: hqq rounds after each step to the type that it computes in."""
    layer.meta["compute_dtype"] = torch.float32
    for part in ["scale", "zero"]:
        layer.meta[part] = layer.meta[part].to(torch.float32)
    return layer.dequantize()


def main():
    HQQLinear.set_backend(HQQBackend.PYTORCH)
    run = Run(__doc__, ["torch", "hqq"])
    for model, spec in CASES:
        if not (case := run.case(model, spec)):
            continue
        with case:
            packed, rest = layers(case.make())
            weights = {name: numpy(tensor) for name, tensor in rest.items()}
            weights |= {name: numpy(widened(layer)) for name, layer in packed.items()}
            case.weights("float32", weights)
            case.logits("logits, f32", logits_of(case, weights))
    run.finish()


if __name__ == "__main__":
    main()
