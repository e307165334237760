#!/usr/bin/env python3
"""transformers and bitsandbytes load what `firebox quantize` writes for them: NF4, FP4 and LLM.int8.

    python tests/peers/transformers_bitsandbytes.py [--firebox PROGRAM] [--only GLOB]

Every weight that bitsandbytes gives back equals ours bit for bit, in f32 and in the type that the file names; and
logits agree that transformers computes in f32 with the weights of bitsandbytes.
"""

from common import BF16, F32, OWN, Run

from with_torch import forward, load, logits_of, numpy, rounded, short, torch

import logging

import bitsandbytes as bnb
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise, get_4bit_type, int8_vectorwise_dequant

CASES = [
    (model, spec)
    for model in [BF16, F32]
    for spec in ["nf4", "nf4:nested", "nf4:block=128,nested", "nf4:block=32", "fp4", "fp4:nested", "int8"]
] + [(BF16, "nf4:block=256"), (F32, "fp4:block=4096")]


def formula(weight, dtype):
    """A 4-bit weight by bitsandbytes' own formula, as any device without a kernel computes it."""
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = dequantize_blockwise(absmax, state.state2) + state.offset
    code = get_4bit_type(state.quant_type, device="cpu")
    return _dequantize_4bit_compute(
        weight.data.reshape(-1).view(torch.uint8), absmax.float(), code, state.blocksize, state.shape, dtype
    )


def whole_rows(weight):
    """Whether rows are whole blocks.

    Where they are not, the AVX-512 kernel of 0.50.2 takes wrong scales, and its forward pass raises an error.
    """
    state = getattr(weight, "quant_state", None)
    return state is None or state.shape[-1] % state.blocksize == 0


def kernel(weight, dtype):
    """The same by the function that users call."""
    state = weight.quant_state
    before, state.dtype = state.dtype, dtype
    found = dequantize_4bit(weight.data, state)
    state.dtype = before
    return found


def bits4(case, plain, packed):
    state = next(iter(packed.values())).weight.quant_state
    theirs = {name: numpy(formula(module.weight, torch.float32)) for name, module in packed.items()}
    case.weights("f32, formula", plain | theirs)
    narrow = {name: numpy(formula(module.weight, state.dtype)) for name, module in packed.items()}
    case.weights(f"{short(state.dtype)}, formula", narrow, rounded(state.dtype), of=packed)
    whole = {name: module for name, module in packed.items() if whole_rows(module.weight)}
    for dtype in {torch.float32, state.dtype} if whole else ():
        found = {name: numpy(kernel(module.weight, dtype)) for name, module in whole.items()}
        case.weights(f"{short(dtype)}, `dequantize_4bit`", found, rounded(dtype), of=whole)
    return plain | theirs


def int8(case, plain, packed):
    theirs = {
        name: numpy(int8_vectorwise_dequant(module.weight.data, module.weight.SCB)) for name, module in packed.items()
    }
    case.weights("f32, `int8_vectorwise_dequant`", plain | theirs)
    return plain | theirs


def main():
    # It says for each layer that activations become f16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    run = Run(__doc__, ["torch", "transformers", "bitsandbytes"])
    for model, spec in CASES:
        if not (case := run.case(model, spec)):
            continue
        with case:
            loaded = load(case.make(), dtype="auto", device_map={"": "cpu"})
            kind, dequantize = (bnb.nn.Linear8bitLt, int8) if spec == "int8" else (bnb.nn.Linear4bit, bits4)
            packed = {f"{name}.weight": module for name, module in loaded.named_modules() if isinstance(module, kind)}
            if set(packed) != set(case.packed):
                raise RuntimeError(f"transformers packs {sorted(packed)}, firebox {sorted(case.packed)}")
            plain = {name: numpy(weight) for name, weight in loaded.named_parameters() if name not in packed}
            weights = dequantize(case, plain, packed)
            case.logits("logits, f32", logits_of(case, weights))
            if all(whole_rows(module.weight) for module in packed.values()):
                # Last, since it repacks the weights on some processors. It computes in half types, of int8 in int8.
                case.logits("own logits", forward(loaded, case.ids()), OWN)
    run.finish()


if __name__ == "__main__":
    main()
