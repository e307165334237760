#!/usr/bin/env python3
"""peft loads the adapter that `cargo run --example train` writes, and computes the same logits.

    cargo run --example train
    python tests/peers/peft_read.py [--firebox PROGRAM] [--adapter DIR]

Base and adapter in f32 on both sides; the largest difference of the logits is printed, and above 1e-4 the exit code is 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets/tinyrust"
TOKENS = list(range(5, 300, 7))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--firebox", default=ROOT / "target/debug/firebox")
    options.add_argument("--adapter", default=Path(tempfile.gettempdir()) / "firebox-adapter")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.safetensors"
        tokens = ",".join(map(str, TOKENS))
        command = [options.firebox, "logits", MODEL, "--adapter", options.adapter, "--dtype", "f32"]
        subprocess.run([*command, f"--tokens={tokens}", "--out", out], check=True, stdout=subprocess.DEVNULL)
        ours = load_file(out)["logits"]
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        before = base(torch.tensor([TOKENS])).logits
        theirs = PeftModel.from_pretrained(base, options.adapter)(torch.tensor([TOKENS])).logits
    changed = (theirs - before).abs().max().item()
    error = (ours.reshape(theirs.shape) - theirs).abs().max().item()
    print(f"the adapter changes logits by up to {changed:.3f}; firebox and peft differ by up to {error:.2e}")
    sys.exit(changed < 1e-2 or error > 1e-4)


if __name__ == "__main__":
    main()
