#!/usr/bin/env python3
"""compressed-tensors, alone and under transformers, reads what `firebox quantize` writes for it: FP8 and whole numbers.

    python tests/peers/compressed_tensors_read.py [--firebox PROGRAM] [--only GLOB]

Every weight that it decompresses equals ours bit for bit: with the scales widened to f32, in the type that the file has
them in, and as transformers loads it, at once or at the first forward pass. Logits agree that transformers computes in
f32 with these weights.
"""

from common import BF16, F32, OWN, Run

from with_torch import forward, load, logits_of, numpy, rounded, short, torch

from compressed_tensors.compressors import BaseCompressor, ModelCompressor
from safetensors.torch import load_file
from loguru import logger
from transformers import AutoConfig, CompressedTensorsConfig

CASES = [
    (model, spec, arguments)
    for model in [BF16, F32]
    for spec, *arguments in [
        ("fp8:e4m3,scale=tensor",),
        ("fp8:e4m3,scale=channel",),
        ("fp8:e4m3,scale=block,recipe=compressed-tensors", "--to", "compressed-tensors"),
        ("fp8:e4m3,scale=block", "--to", "compressed-tensors"),
        ("wna16:bits=4,group=32",),
        ("wna16:bits=4,group=64,asymmetric",),
        ("wna16:bits=8,scale=channel",),
        ("wna16:bits=8,scale=channel,asymmetric",),
        ("wna16:bits=4,scale=tensor",),
        ("wna16:bits=3,group=64",),
        ("wna16:bits=2,group=32,asymmetric",),
        ("wna16:bits=5,scale=channel",),
        ("wna16:bits=6,group=64,asymmetric",),
    ]
] + [(BF16, "wna16", []), (BF16, "wna16:asymmetric", [])]


def decompressed(made, dtype):
    """The weights, plain ones too, by compressed-tensors alone; with scales of `dtype`, or as they are."""
    stored = load_file(made / "model.safetensors")
    config = AutoConfig.from_pretrained(made).quantization_config
    config = ModelCompressor.from_compression_config(CompressedTensorsConfig(**config)).quantization_config
    (scheme,) = config.config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
    modules = {}
    for name, tensor in stored.items():
        module, _, field = name.rpartition(".")
        modules.setdefault(module, {})[field] = tensor
    found = {}
    for module, fields in modules.items():
        if "weight_scale" in fields:
            if dtype:
                fields["weight_scale"] = fields["weight_scale"].to(dtype)
            fields = {"weight": compressor.decompress(fields, scheme)["weight"]}
        found |= {f"{module}.{field}": tensor for field, tensor in fields.items()}
    return found


def narrowed(case, dtype):
    """Whether transformers rounds scales: it casts those in f32 to the model's type, unless it dequantizes at once."""
    scales = (tensor.dtype for name, tensor in case.made.items() if name.endswith(".weight_scale"))
    return dtype is not torch.float32 and "F32" in scales


def main():
    logger.remove()
    run = Run(__doc__, ["torch", "transformers", "compressed-tensors"])
    for model, spec, arguments in CASES:
        if not (case := run.case(model, spec, *arguments)):
            continue
        with case:
            made = case.make()
            widened = {name: numpy(weight) for name, weight in decompressed(made, torch.float32).items()}
            case.weights("float32", widened)
            narrow = {name: weight for name, weight in decompressed(made, None).items() if name in case.packed}
            dtypes = {name: weight.dtype for name, weight in narrow.items()}
            narrow = {name: numpy(weight) for name, weight in narrow.items()}
            case.weights(
                " and ".join(sorted({short(dtype) for dtype in dtypes.values()})),
                narrow,
                rounded(dtypes),
                of=case.packed,
            )
            case.logits("logits, f32", logits_of(case, widened))

            loaded = load(made, dtype="auto", quantization_config=CompressedTensorsConfig(dequantize=True))
            theirs = {name: numpy(weight) for name, weight in loaded.named_parameters()}
            case.weights(f"transformers, {short(loaded.dtype)}", theirs, rounded(loaded.dtype))
            if "asymmetric" in spec:
                # On PyTorch's device `meta`, where transformers makes the model, 0.20.0 does not pack zero points:
                # what its own `compress` writes elsewhere does not fit either.
                continue
            if "scale=block" in spec and model == F32:
                # Activations are quantized in groups of 128, of which its rows of 192 are no multiple.
                continue
            loaded = load(made, dtype="auto")
            own = forward(loaded, case.ids())
            theirs = {name: numpy(loaded.get_parameter(name)) for name in case.packed}
            if not narrowed(case, loaded.dtype):
                case.weights("after a forward pass", theirs, rounded(loaded.dtype), of=case.packed)
            case.logits("own logits", own, OWN)
    run.finish()


if __name__ == "__main__":
    main()
