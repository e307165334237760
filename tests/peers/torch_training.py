#!/usr/bin/env python3
"""The same training run in firebox, in plain PyTorch and in peft with bitsandbytes: the same tokens, order, factors and settings.

    cargo build --release && cargo build --release --example same_start
    python tests/peers/torch_training.py [--steps N] [--rows N] [--length N] [--every N] [--svg FILE] [--markdown FILE]

Four runs on `assets/tinyrust` with `assets/burn-book`, all in f32:

* `firebox finetune` on the dense base and on the base in NF4;
* LoRA in plain PyTorch, written out in this file, on the dense base of transformers;
* peft on the base that bitsandbytes packs in NF4.

Batches and the factors before the first step are those that `tests/peers/same_start.rs` writes, learning rates those in firebox's
`metrics.jsonl`. Losses of every step are compared: they may differ by 1e-3, perplexities by 0.1 %.
More is in bold, and the exit code is 1.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets/tinyrust"
TEXT = ROOT / "assets/burn-book"
SEED = "1"
# What sums in another order may change in a run: of a loss in nats, and of a perplexity.
LOSS, PERPLEXITY = 1e-3, 1e-3
COLORS = ["#0072b2", "#009e73", "#d55e00", "#cc79a7"]


class Batches:
    """A file that `same_start` wrote."""

    def __init__(self, path):
        self.lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def __iter__(self):
        for line in self.lines:
            shape = line["shape"]
            labels = [-100 if label is None else label for label in line["labels"]]
            ids, labels, starts = (torch.tensor(x).view(*shape) for x in (line["ids"], labels, line["starts"]))
            place = torch.arange(shape[1])
            # A token sees those of its document, from its start to itself.
            sees = (place[None, None] <= place[None, :, None]) & (place[None, None] >= starts[:, :, None])
            mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
            yield {"input_ids": ids, "position_ids": place - starts, "attention_mask": mask[:, None]}, labels


def loss_of(model, inputs, labels):
    """Sum of the losses of all labelled tokens, and their number."""
    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    labels = labels.flatten()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), int((labels != -100).sum())


def perplexity(model, batches):
    model.eval()
    with torch.no_grad():
        sums, counts = zip(*(loss_of(model, *batch) for batch in batches))
    model.train()
    return math.exp(sum(map(float, sums)) / sum(counts))


def train(model, steps, start):
    """Losses before each step, perplexities before the first and after the last; AdamW of PyTorch, clipping at 1."""
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.0)
    held_out, losses = Batches(start / "held-out.jsonl"), []
    perplexities = [perplexity(model, held_out)]
    for (inputs, labels), step in zip(Batches(start / "train.jsonl"), steps, strict=True):
        total, count = loss_of(model, inputs, labels)
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = step["lr"]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, [*perplexities, perplexity(model, held_out)]


class Lora(torch.nn.Module):
    """y = W x + alpha / rank B A x, by the book."""

    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.a, self.b = torch.nn.Parameter(a), torch.nn.Parameter(b)

    def forward(self, x):
        return self.linear(x) + self.scale * (x @ self.a.T @ self.b.T)


def plain(start):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).requires_grad_(False)
    config = json.loads((start / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    factors = load_file(start / "adapter/adapter_model.safetensors")
    for name in sorted(name for name in factors if name.endswith("lora_A.weight")):
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        above, last = path.rsplit(".", 1)
        above = model.get_submodule(above)
        a, b = factors[name], factors[name.replace("lora_A", "lora_B")]
        setattr(above, last, Lora(getattr(above, last), a, b, config["lora_alpha"] / config["r"]))
    return model


def packed(start):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, device_map="cpu", quantization_config=config)
    for module in base.modules():
        # Or the first evaluation repacks the weight for a kernel that computes in bf16 and has no gradient: in the training after it
        # the layers before get none through it, and PyTorch warns of that.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(base, start / "adapter", is_trainable=True)


def ours(options, quant, out):
    command = [options.firebox, "finetune", MODEL, "--data", TEXT / "train.txt", "--eval", TEXT / "held-out.txt"]
    command += ["--quant", quant, "--adapter", options.adapter, "--steps", options.steps, "--batch", options.rows]
    command += ["--length", options.length, "--learning-rate", options.learning_rate, "--weight-decay", 0, "--clip", 1]
    command += ["--seed", SEED, "--dtype", "f32", "--out", out, "--json"]
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    return steps, [line["eval_perplexity"] for line in lines if "eval_perplexity" in line]


def curves(runs, path):
    """A picture of losses, each the mean of nine steps."""
    width, height, left, bottom = 720, 360, 48, 32
    smooth = {name: [sum(l[max(0, i - 4) : i + 5]) / len(l[max(0, i - 4) : i + 5]) for i in range(len(l))] for name, (l, _) in runs.items()}
    low, high = (f(f(losses) for losses in smooth.values()) for f in (min, max))
    steps = len(next(iter(smooth.values())))
    x = lambda step: left + (width - left - 8) * step / max(1, steps - 1)
    y = lambda loss: 8 + (height - bottom - 8) * (high - loss) / (high - low)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    svg.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in range(5):
        loss, step = low + (high - low) * tick / 4, (steps - 1) * tick // 4
        svg.append(f'<path d="M{left} {y(loss):.1f}H{width - 8}" stroke="#ddd"/><text x="4" y="{y(loss) + 4:.1f}">{loss:.2f}</text>')
        svg.append(f'<text x="{x(step):.0f}" y="{height - 12}" text-anchor="middle">{step + 1}</text>')
    for nth, ((name, losses), color) in enumerate(zip(smooth.items(), COLORS)):
        line = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in enumerate(losses))
        dash = ' stroke-dasharray="6 6"' if nth >= 2 else ""
        svg.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        svg.append(f'<text x="{width - 260}" y="{28 + 18 * nth}" fill="{color}">{name}</text>')
    path.write_text("\n".join([*svg, "</svg>", ""]), encoding="utf-8")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--firebox", default=ROOT / "target/release/firebox")
    options.add_argument("--same-start", default=ROOT / "target/release/examples/same_start")
    options.add_argument("--adapter", default="lora:rank=8,alpha=16")
    options.add_argument("--steps", type=int, default=120)
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--learning-rate", type=float, default=2e-3)
    options.add_argument("--every", type=int, default=10, help="steps between two lines of the table")
    options.add_argument("--svg", type=Path, help="a picture of the four curves")
    options = options.parse_args()
    torch.manual_seed(0)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        start = folder / "start"
        command = [options.same_start, MODEL, TEXT / "train.txt", TEXT / "held-out.txt", options.rows, options.length]
        command += [options.steps, SEED, options.adapter, start]
        subprocess.run([*map(str, command)], check=True)
        runs = {}
        for name, quant in [("firebox, dense", "none"), ("firebox, NF4", "nf4")]:
            steps, perplexities = ours(options, quant, folder / quant)
            runs[name] = [step["loss"] for step in steps], [perplexities[0], perplexities[-1]]
        runs["PyTorch, dense"] = train(plain(start), steps, start)
        runs["peft and bitsandbytes, NF4"] = train(packed(start), steps, start)

    libraries = ", ".join(f"{library} {metadata.version(library)}" for library in ("torch", "peft", "bitsandbytes"))
    print(f"\n{libraries}; {options.rows} x {options.length} tokens, {options.adapter}\n")
    print(f"| step | {' | '.join(runs)} |\n|---|{'---|' * len(runs)}")
    for step in sorted({0, *range(options.every - 1, options.steps, options.every)}):
        print(f"| {step + 1} | {' | '.join(f'{losses[step]:.4f}' for losses, _ in runs.values())} |")
    for nth, name in enumerate(["perplexity before", "perplexity after"]):
        print(f"| {name} | {' | '.join(f'{perplexities[nth]:.3f}' for _, perplexities in runs.values())} |")
    if options.svg:
        curves(runs, options.svg)

    (dense, packed_), (torch_, peft) = list(runs.items())[:2], list(runs.items())[2:]
    failed = False
    for (one, (ours_, ours_end)), (other, (theirs, theirs_end)) in [(dense, torch_), (packed_, peft)]:
        loss = max(abs(a - b) for a, b in zip(ours_, theirs, strict=True))
        end = max(abs(a / b - 1) for a, b in zip(ours_end, theirs_end, strict=True))
        wrong = loss > LOSS or end > PERPLEXITY or ours_end[1] >= ours_end[0]
        failed |= wrong
        mark = "**" if wrong else ""
        print(f"\n{mark}{one} and {other}: losses differ by up to {loss:.1e}, perplexities by {100 * end:.3f} %{mark}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
