"""Errors of weights and of logits that quantization makes in each family, as a Markdown table.

    python3 tests/peers/family_quality.py FIREBOX MODELS

FIREBOX is the program, MODELS a folder of models with `logits.safetensors` (`input_ids`, `logits_f32`), as
tests/golden/models has them. SQNR is that of all packed weights together, in dB; KL is the mean divergence of the
quantized model's next token from the reference's, in nats. A matrix whose rows a method cannot cut into groups stays dense
and is counted.
"""

import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open

QUANTS = ["nf4", "mlx:bits=4,group=32", "fp8:e4m3,scale=channel"]
FAMILIES = re.compile(r"_(bf16|f16|f32)(_untied|_tied|_tied_bias)?$")


def tensor(path, name):
    with safe_open(path, "np") as file:
        return file.get_tensor(name)


def run(program, *arguments):
    """The output of the program; matrices that do not fit are skipped one after another."""
    skipped = []
    while True:
        skips = [word for name in skipped for word in ("--skip", name)]
        ran = subprocess.run([program, *arguments, *skips], capture_output=True, text=True)
        if ran.returncode == 0:
            return ran.stdout, skips
        if "is quantized: say how" in ran.stderr:
            return None, skips
        # The error says which matrices to skip.
        misfits = set(re.findall(r"--skip '([^']+)'", ran.stderr)) - set(skipped)
        if not misfits:
            sys.exit(f"{arguments}: {ran.stderr}")
        skipped += sorted(misfits)


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def quality(program, model, quant):
    verified, skips = run(program, "verify", str(model), "--quant", quant, "--json")
    if verified is None:
        return None
    tensors = [t for t in json.loads(verified)["tensors"] if t["quant"] != "none"]
    # Squares of errors over squares of weights, weighted by the numbers of a tensor.
    noise = [10 ** (-t["sqnr_db"] / 10) for t in tensors if t["sqnr_db"] is not None]
    sizes = [t["compared"] for t in tensors if t["sqnr_db"] is not None]
    sqnr = -10 * math.log10(np.average(noise, weights=sizes)) if noise else math.inf
    golden = model / "logits.safetensors"
    divergences = []
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/logits.safetensors"
        for ids, expected in zip(tensor(golden, "input_ids"), tensor(golden, "logits_f32")):
            tokens = ",".join(map(str, ids))
            run(program, "logits", str(model), "--quant", quant, *skips, "--tokens", tokens, "--out", out)
            p, q = log_softmax(expected), log_softmax(tensor(out, "logits"))
            divergences.append((np.exp(p) * (p - q)).sum(-1))
    return len(tensors), sqnr, float(np.mean(divergences))


def main():
    program, models = sys.argv[1], Path(sys.argv[2])
    print("| model | " + " | ".join(f"`{quant}`" for quant in QUANTS) + " |")
    print("|---|" + "---|" * len(QUANTS))
    for model in sorted(models.iterdir()):
        if not FAMILIES.search(model.name):
            continue
        cells = [quality(program, model, quant) for quant in QUANTS]
        row = " | ".join(
            "does not fit" if cell is None else f"{cell[1]:.1f} dB, {cell[2]:.3g}, {cell[0]}" for cell in cells
        )
        print(f"| `{model.name}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
