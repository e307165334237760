#!/usr/bin/env python3
"""peft loads the adapters that `firebox finetune` writes, and computes the same logits; transformers loads what `firebox merge`
makes of them, and computes what peft computes after its own merge.

    cargo build
    python tests/peers/peft_read.py [--firebox PROGRAM] [--steps N] [--only GLOB]
    python tests/peers/peft_read.py --adapter DIR

Every case trains some steps on `assets/burn-book` and compares base and adapter in f32 on both sides, beside the weights and merged; above
1e-4, and where the adapter changes nothing, a difference is in bold and the exit code is 1. With --adapter the folder is compared, as the adapter of
`assets/tinyrust`: that of `cargo run --example train`, for one.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/models"
TINY, BIASED = ROOT / "assets/tinyrust", GOLDEN / "llama_f16_tied_bias"
TOKENS = list(range(5, 300, 7))
CASES = {
    "LoRA": (TINY, "none", "lora:rank=8,alpha=16"),
    "LoRA on NF4": (TINY, "nf4", "lora:rank=8,alpha=16"),
    "DoRA": (TINY, "nf4", "lora:rank=4,alpha=8,dora"),
    "rsLoRA, whole head": (TINY, "nf4", "lora:rank=4,alpha=8,rslora,whole=lm_head"),
    "embedding, dropout": (TINY, "nf4", "lora:rank=4,alpha=8,dropout=0.1,targets=*.{q,v}_proj+model.embed_tokens"),
    "biases": (BIASED, "none", "lora:rank=4,alpha=8,bias=adapted"),
    "embedding, DoRA": (TINY, "nf4", "lora:rank=4,alpha=8,dora,targets=*.{q,v}_proj+*.embed_tokens"),
    "GPT-2, whole matrices, DoRA": (GOLDEN / "gpt2_f32", "none", "lora:rank=4,dora,targets=*.c_attn,whole=*.c_proj"),
    "GPT-2, whole embedding": (GOLDEN / "gpt2_f32", "none", "lora:rank=4,targets=*.c_attn,whole=*.wte"),
    "GPT-NeoX, head": (GOLDEN / "gpt_neox_f16", "none", "lora:rank=4,targets=*.query_key_value,whole=embed_out"),
    "Gemma 3 with pictures, head": (GOLDEN / "gemma3_mm_bf16", "none", "lora:rank=4,targets=*.q_proj,whole=lm_head"),
    "experts": (GOLDEN / "mixtral_bf16", "none", "lora:rank=2,targets=*.w1+*.w2+*.w3"),
    "gate of a shared expert": (GOLDEN / "qwen2_moe_bf16", "none", "lora:rank=1,targets=*.shared_expert_gate+*.v_proj"),
}


def firebox(options, *arguments):
    done = subprocess.run([*map(str, (options.firebox, *arguments))], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"firebox {' '.join(map(str, arguments))}: {done.stderr.strip()}")


def with_tokenizer(model, folder):
    """A model that has a tokenizer: of single bytes, if it has none of its own."""
    if (model / "tokenizer.json").exists():
        return model
    shutil.copytree(model, folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: nth for nth, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def finetuned(options, folder, model, case):
    _, quant, adapter = case
    given = ["--data", ROOT / "assets/burn-book/held-out.txt", "--quant", quant, "--adapter", adapter]
    given += ["--steps", options.steps, "--batch", 2, "--length", 32, "--learning-rate", 5e-3, "--seed", 1]
    firebox(options, "finetune", model, *given, "--out", folder)
    return folder / "adapter"


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits


def compared(options, folder, model, adapter):
    """How far the adapter changes logits, how far those of firebox and peft are apart, and how far after a merge."""
    out = folder / "logits.safetensors"
    tokens = ",".join(map(str, TOKENS))
    firebox(options, "logits", model, "--adapter", adapter, "--dtype", "f32", f"--tokens={tokens}", "--out", out)
    ours = load_file(out)["logits"]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, adapter)
    theirs = logits(adapted)
    firebox(options, "merge", model, "--adapter", adapter, "--dtype", "f32", "--out", folder / "merged")
    merged = logits(AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32))
    changes = theirs - before, ours.reshape(theirs.shape) - theirs, merged - logits(adapted.merge_and_unload())
    return [change.abs().max().item() for change in changes]


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
    print("| adapter | changes logits by up to | firebox and peft differ by up to | and merged by |\n|---|---|---|---|")
    failed = not cases
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            model = with_tokenizer(case[0], folder / "model") if case else TINY
            adapter = finetuned(options, folder / "run", model, case) if case else options.adapter
            changed, *errors = compared(options, folder, model, adapter)
        wrong = changed < 1e-2 or not max(errors) <= 1e-4
        failed |= wrong
        mark = "**" if wrong else ""
        print(f"| {name} | {changed:.3f} | {' | '.join(f'{mark}{error:.1e}{mark}' for error in errors)} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
