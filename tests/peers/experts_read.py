#!/usr/bin/env python3
"""Libraries load the experts that `firebox quantize` writes for them, of a Qwen 3 MoE.

    python tests/peers/experts_read.py [--firebox PROGRAM] [--only GLOB]

Under transformers 5: mlx-lm (stacks), fine-grained FP8 and compressed-tensors (a tensor for each expert), and bitsandbytes
with dense experts, since transformers 5 packs linear layers alone. Under transformers 4.57, where experts are linear layers:
bitsandbytes. Every weight that the library has equals what it loads of the checkpoint that `firebox convert --dequantize`
makes, bit for bit. gpt-oss in MLX equals what mlx-lm itself makes of OpenAI's files.
"""

import shutil

from common import PACKED, Run, differing

from with_torch import load, numpy, torch

import transformers

FIVE = int(transformers.__version__.split(".")[0]) >= 5
DENSE = ["--rule", "role:expert=none"]
EACH = [
    ("fp8:e4m3,scale=32x32",),
    ("fp8:e4m3,scale=16x32,ue8m0",),
    ("fp8:e4m3,scale=channel",),
    ("fp8:e4m3,scale=tensor",),
    ("wna16:bits=4,group=32",),
    ("wna16:bits=8,scale=channel",),
    ("nf4:block=32", *DENSE),
]
BITSANDBYTES = [("nf4",), ("nf4:nested",), ("fp4:block=32",), ("nf4", "--rule", "role:router=nf4"), ("int8",)]
STACKS = [
    ("mlx:bits=4,group=32",),
    ("mlx:bits=3,group=32", "--rule", "role:router=mlx:bits=8,group=64"),
    ("mxfp4", "--rule", "role:head=mlx:bits=4,group=64"),
    ("mlx:bits=4,group=32", *DENSE),
    ("mxfp8", "--rule", "*.self_attn.*=none"),
]


def dense(run):
    """A model of bf16 weights, made of one that mlx-lm has quantized."""
    packed, folder = PACKED / "qwen3_moe_mlx_4bit", run.path("dense")
    run.firebox("convert", packed, "--dequantize", "--out", folder)
    shutil.copy(packed / "logits.safetensors", folder)
    return folder


def by_mlx(case):
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    # Strict: a tensor too many or too few is an error.
    model, _ = load_model(case.make())
    theirs = {}
    for name, module in model.named_modules():
        if "weight" not in module:
            continue
        weight = module.weight
        if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear)):
            widen = (lambda part: part.astype(mx.float32)) if module.mode == "affine" else lambda part: part
            biases = module.get("biases")
            parts = [weight, widen(module.scales), None if biases is None else widen(biases)]
            how = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
            weight = mx.dequantize(*parts, **how, dtype=mx.float32)
        array = np.array(weight.astype(mx.float32))
        if ".switch_mlp." in name:
            for expert, matrix in enumerate(array):
                theirs[f"{name.replace('switch_mlp', f'experts.{expert}')}.weight"] = matrix
        else:
            theirs[f"{name}.weight"] = array
    case.weights("float32", theirs)


def split(run):
    """Gates and ups of gpt-oss: what firebox makes of OpenAI's layout is what mlx-lm makes of it while it loads."""
    import mlx.core as mx
    import numpy as np
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    made = run.path("split")
    run.firebox("convert", PACKED / "gpt_oss_mxfp4", "--to", "mlx", "--out", made)

    def loaded(folder):
        flat = tree_flatten(load_model(folder)[0].parameters())
        return {name: (array.dtype, np.array(array.view(mx.uint8))) for name, array in flat}

    ours, theirs = loaded(made), loaded(PACKED / "gpt_oss_mxfp4")
    wrong = sorted(set(ours) ^ set(theirs))
    wrong += [name for name in set(ours) & set(theirs) if ours[name][0] != theirs[name][0]]
    wrong += [name for name in set(ours) & set(theirs) if not np.array_equal(ours[name][1], theirs[name][1])]
    run.cases += 1
    run.failures += bool(wrong)
    print(f"| gpt_oss_mxfp4 to MLX | {f'**differ: {wrong}**' if wrong else f'{len(ours)} parameters equal'} |", flush=True)


def parameters(model):
    return {name: numpy(weight) for name, weight in model.named_parameters()}


def by_transformers(case):
    made = case.make()
    options = {"dtype": "auto"}
    if "compressed" in str(case.json(made)["quantization_config"]):
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    theirs = load(made, **options)
    bf16 = case.folder / "bf16"
    case.run.firebox("convert", made, "--dequantize", "--out", bf16)
    ours = parameters(load(bf16, dtype="auto"))
    packed = {name for name, module in theirs.named_modules() if type(module).__name__ == "Linear4bit"}
    found = unpacked(theirs, packed) | {
        name: weight for name, weight in parameters(theirs).items() if name.removesuffix(".weight") not in packed
    }
    wrong = [name for name in ours if name not in found or differing(ours[name], found[name])]
    failed = bool(wrong or set(found) != set(ours))
    case.compared = True
    case.check(f"as loaded: {wrong or f'{len(ours)} parameters equal'}, {len(packed)} packed", failed)


def unpacked(model, packed):
    """The weights of bitsandbytes by its own formula, in the type of the file."""
    if not packed:
        return {}
    from transformers_bitsandbytes import formula

    modules = dict(model.named_modules())
    return {
        f"{name}.weight": numpy(formula(modules[name].weight, modules[name].weight.quant_state.dtype))
        for name in packed
    }


def by_bitsandbytes(case):
    import bitsandbytes as bnb
    from bitsandbytes.functional import int8_vectorwise_dequant
    from transformers_bitsandbytes import formula

    model = load(case.make(), dtype="auto", device_map={"": "cpu"})
    theirs = {name: numpy(weight) for name, weight in model.named_parameters()}
    packed = set()
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            weight = int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
        elif isinstance(module, bnb.nn.Linear4bit):
            weight = formula(module.weight, torch.float32)
        else:
            continue
        theirs[f"{name}.weight"] = numpy(weight)
        packed.add(f"{name}.weight")
    case.weights("f32, formula", theirs)
    if packed != set(case.packed):
        case.check(f"packed otherwise: {sorted(packed ^ set(case.packed))[:3]}", failed=True)


def main():
    run = Run(__doc__, ["torch", "transformers", "bitsandbytes"] + ["mlx-lm", "compressed-tensors"] * FIVE)
    model = dense(run)
    if FIVE:
        split(run)
    ways = [(by_mlx, STACKS), (by_transformers, EACH)] if FIVE else [(by_bitsandbytes, BITSANDBYTES)]
    for way, cases in ways:
        for spec, *arguments in cases:
            if case := run.case(model, spec, *arguments):
                with case:
                    way(case)
    run.finish()


if __name__ == "__main__":
    main()
