#!/usr/bin/env python3
"""transformers reads the FP8 in tiles that `firebox quantize` writes: `quant_method` `fp8`, as DeepSeek has it.

    python tests/peers/fine_grained_fp8.py [--firebox PROGRAM] [--only GLOB]

Without a GPU transformers dequantizes while it loads. Every weight that it loads equals ours bit for bit, in the type of
the model, and in f32 where that was asked for; logits agree that it computes in f32 with these weights.
"""

from common import BF16, F32, OWN, Run

from with_torch import forward, load, logits_of, numpy, rounded, short, torch

from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import FP8Linear, Fp8Dequantize, replace_with_fp8_linear
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

# transformers 5.23.0 takes for a tile the matrix's sides over those of the grid of scales, whatever `weight_block_size`
# says: 192 rows under two scales of 128 rows each are read as twice 96. So what is no multiple of a tile is left out,
# as by transformers itself when it quantizes; a matrix inside of one tile is not affected.
PARTIAL = ["--skip", "*.mlp.*"]
CASES = [
    (model, spec, PARTIAL if model is F32 and spec != "fp8:e4m3,scale=64x64" else [])
    for model in [BF16, F32]
    for spec in ["fp8:e4m3,scale=block", "fp8:e4m3,scale=block,ue8m0", "fp8:e4m3,scale=64x64"]
]


def formula(made):
    """All weights by the operation of transformers that its loading ends in, in f32."""
    stored = load_file(made / "model.safetensors")
    operation = Fp8Dequantize(None)
    found = {}
    for name, tensor in stored.items():
        if name.endswith(".weight_scale_inv"):
            continue
        scales = stored.get(f"{name}_scale_inv")
        found[name] = numpy(tensor if scales is None else operation._dequantize_one(tensor, scales, torch.float32))
    return found


def on_gpu(made):
    """The weights that transformers expects to be packed where it has kernels for them."""
    config = AutoConfig.from_pretrained(made)
    said = FineGrainedFP8Config.from_dict(config.quantization_config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    skip = FineGrainedFP8HfQuantizer.get_modules_to_not_convert(model, said.modules_to_not_convert, None)
    replace_with_fp8_linear(model, modules_to_not_convert=skip, quantization_config=said, pre_quantized=True)
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, FP8Linear)}


def main():
    run = Run(__doc__, ["torch", "transformers"])
    for model, spec, arguments in CASES:
        if not (case := run.case(model, spec, *arguments)):
            continue
        with case:
            made = case.make()
            widened = formula(made)
            case.weights("float32", widened)
            case.logits("logits, f32", logits_of(case, widened))
            if on_gpu(made) != set(case.packed):
                case.check(
                    f"on a GPU transformers packs {sorted(on_gpu(made) ^ set(case.packed))} otherwise", failed=True
                )
            loaded = load(made, dtype="auto")
            theirs = {name: numpy(weight) for name, weight in loaded.named_parameters()}
            case.weights(f"transformers, {short(loaded.dtype)}", theirs, rounded(loaded.dtype))
            case.logits("own logits", forward(loaded, case.ids()), OWN)
    run.finish()


if __name__ == "__main__":
    main()
