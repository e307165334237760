#!/usr/bin/env python3
"""mlx-lm loads what `firebox quantize` writes for it: affine codes of 2 to 8 bits, MXFP4, MXFP8 and NVFP4.

    python tests/peers/mlx_read.py [--firebox PROGRAM] [--only GLOB]

Every weight that MLX dequantizes to f32 equals ours bit for bit, and logits agree that mlx-lm computes in f32, both with
the packed weights. Scales and biases of the file are widened first: MLX rounds to their type after each step.
"""


from common import BF16, F32, OWN, Run

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.utils import load_model

WIDTHS = [(2, 32), (3, 64), (4, 64), (4, 32), (5, 64), (6, 32), (8, 64)]
SPECS = [f"mlx:bits={bits},group={group}" for bits, group in WIDTHS] + ["mxfp4", "mxfp8", "nvfp4"]
# Embeddings too, and heads where they are tensors, as mlx-lm itself packs them.
WHOLE = ["mlx:bits=4,group=64", "mlx:bits=3,group=32", "mxfp4", "mxfp8", "nvfp4"]
# Two formats in one model.
MIXED = [
    ("mlx:bits=4,group=64", "mlx:bits=6,group=32"),
    ("mlx:bits=4,group=64", "mxfp8"),
    ("mxfp4", "mlx:bits=8,group=128"),
]


def cases():
    for model in [BF16, F32]:
        yield from ((model, spec, []) for spec in SPECS)
        roles = ["embedding", "head"] if model is BF16 else ["embedding"]
        for spec in WHOLE:
            yield model, spec, [word for role in roles for word in ["--rule", f"role:{role}={spec}"]]
    yield BF16, "mlx:bits=8,group=128", []
    for spec, other in MIXED:
        yield BF16, spec, ["--rule", f"*.down_proj={other}"]


def numpy(array):
    return np.array(array.astype(mx.float32))


def weights(model):
    """All parameters in f32, packed ones dequantized by MLX; and the names of the packed ones."""
    found, packed = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            biases = module.get("biases")
            widen = (lambda part: part.astype(mx.float32)) if module.mode == "affine" else lambda part: part
            biases = module.get("biases")
            parts = [module.weight, widen(module.scales), None if biases is None else widen(biases)]
            how = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
            found[f"{name}.weight"] = numpy(mx.dequantize(*parts, **how, dtype=mx.float32))
            packed.add(f"{name}.weight")
        elif "weight" in module:
            found[f"{name}.weight"] = numpy(module.weight)
    return found, packed


def main():
    mx.set_default_device(mx.cpu)
    run = Run(__doc__, ["mlx", "mlx-lm"])
    for model, spec, arguments in cases():
        if not (case := run.case(model, spec, *arguments)):
            continue
        with case:
            # Strict: a tensor too many or too few is an error.
            loaded, _ = load_model(case.make())
            theirs, packed = weights(loaded)
            # Here an embedding is packed without another type, so names are found by the tensors beside.
            ours = {name.removesuffix(".scales") + ".weight" for name in case.made if name.endswith(".scales")}
            if packed != ours or not set(case.packed) <= ours:
                raise RuntimeError(f"mlx-lm packs {sorted(packed)}, firebox {sorted(ours)}")
            case.weights("float32", theirs)
            own = numpy(loaded(mx.array([case.ids()]))[0])
            loaded.set_dtype(mx.float32)
            case.logits("logits, f32", numpy(loaded(mx.array([case.ids()]))[0]))
            case.logits("own logits", own, OWN)
    run.finish()


if __name__ == "__main__":
    main()
