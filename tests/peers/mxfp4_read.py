#!/usr/bin/env python3
"""transformers reads the MXFP4 experts of gpt-oss that `firebox quantize` and `firebox convert` write.

    python tests/peers/mxfp4_read.py [--firebox PROGRAM] [--only GLOB]

Without a GPU transformers dequantizes while it loads. Every weight that it loads equals ours bit for bit; logits are those of
its own forward pass in f32.
"""

import shutil

from common import PACKED, Run

from with_torch import forward, load, numpy, torch

from transformers import Mxfp4Config

# gpt-oss packs its experts alone.
EXPERTS = ["--rule", "role:linear=none", "--to", "mxfp4"]


def dense_of_packed(run):
    """The dense files of the golden checkpoint in MXFP4."""
    folder = run.path("dense")
    run.firebox("convert", PACKED / "gpt_oss_mxfp4", "--dequantize", "--out", folder)
    shutil.copy(PACKED / "gpt_oss_mxfp4/logits.safetensors", folder)
    return folder


def main():
    run = Run(__doc__, ["torch", "transformers"])
    for model in ["gpt_oss_bf16", dense_of_packed(run)]:
        if not (case := run.case(model, "mxfp4", *EXPERTS)):
            continue
        with case:
            loaded = load(case.make(), dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True))
            case.weights("float32", {name: numpy(weight) for name, weight in loaded.named_parameters()})
            case.logits("logits, f32", forward(loaded, case.ids()))
    run.finish()


if __name__ == "__main__":
    main()
