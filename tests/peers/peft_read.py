#!/usr/bin/env python3
"""peft loads the adapters that `firebox finetune` writes, and computes the same logits.

    cargo build
    python tests/peers/peft_read.py [--firebox PROGRAM] [--steps N] [--only GLOB]
    python tests/peers/peft_read.py --adapter DIR

Every case trains some steps on `assets/burn-book` and compares base and adapter in f32 on both sides; above 1e-4, and where the adapter
changes nothing, a difference is in bold and the exit code is 1. With --adapter the folder is compared, as the adapter of
`assets/tinyrust`: that of `cargo run --example train`, for one.
"""

import argparse
import fnmatch
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
TINY, BIASED = ROOT / "assets/tinyrust", ROOT / "tests/golden/models/llama_f16_tied_bias"
TOKENS = list(range(5, 300, 7))
CASES = {
    "LoRA": (TINY, "none", "lora:rank=8,alpha=16"),
    "LoRA on NF4": (TINY, "nf4", "lora:rank=8,alpha=16"),
    "DoRA": (TINY, "nf4", "lora:rank=4,alpha=8,dora"),
    "rsLoRA, whole head": (TINY, "nf4", "lora:rank=4,alpha=8,rslora,whole=lm_head"),
    "embedding, dropout": (TINY, "nf4", "lora:rank=4,alpha=8,dropout=0.1,targets=*.{q,v}_proj+model.embed_tokens"),
    "biases": (BIASED, "none", "lora:rank=4,alpha=8,bias=adapted"),
}


def firebox(options, *arguments):
    done = subprocess.run([*map(str, (options.firebox, *arguments))], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"firebox {' '.join(map(str, arguments))}: {done.stderr.strip()}")


def finetuned(options, folder, case):
    model, quant, adapter = case
    given = ["--data", ROOT / "assets/burn-book/held-out.txt", "--quant", quant, "--adapter", adapter]
    given += ["--steps", options.steps, "--batch", 2, "--length", 32, "--learning-rate", 5e-3, "--seed", 1]
    firebox(options, "finetune", model, *given, "--out", folder)
    return folder / "adapter"


def compared(options, folder, model, adapter):
    """How far the adapter changes logits, and how far those of firebox and peft are apart."""
    out = folder / "logits.safetensors"
    tokens = ",".join(map(str, TOKENS))
    firebox(options, "logits", model, "--adapter", adapter, "--dtype", "f32", f"--tokens={tokens}", "--out", out)
    ours = load_file(out)["logits"]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        before = base(torch.tensor([TOKENS])).logits
        theirs = PeftModel.from_pretrained(base, adapter)(torch.tensor([TOKENS])).logits
    return (theirs - before).abs().max().item(), (ours.reshape(theirs.shape) - theirs).abs().max().item()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--firebox", default=ROOT / "target/debug/firebox")
    options.add_argument("--adapter", type=Path)
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--only", default="*", metavar="GLOB")
    options = options.parse_args()
    cases = {name: case for name, case in CASES.items() if fnmatch.fnmatch(name, options.only)}
    if options.adapter:
        cases = {str(options.adapter): None}
    print("| adapter | changes logits by up to | firebox and peft differ by up to |\n|---|---|---|")
    failed = not cases
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            adapter = finetuned(options, folder / "run", case) if case else options.adapter
            changed, error = compared(options, folder, case[0] if case else TINY, adapter)
        wrong = changed < 1e-2 or not error <= 1e-4
        failed |= wrong
        mark = "**" if wrong else ""
        print(f"| {name} | {changed:.3f} | {mark}{error:.1e}{mark} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
