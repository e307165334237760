#!/usr/bin/env python3
"""Memory and speed of training an adapter on the CPU: firebox, Burn's `apply_qlora`, and peft with bitsandbytes, in turns.

    cargo build --release && cargo bench --bench train --no-run
    python tests/peers/train_speed.py [--model DIR] [--size 1GB] [--rows N] [--length N] [--steps N] [--rounds N] [--only GLOB]

Without a checkpoint in DIR one is made there with `firebox synth`; without --model in a temporary folder. Each way is a process
of its own, all ways in turn in every round. Each trains factors of rank 16 on every projection with AdamW, on the same tokens, in
f32 unless its name says bf16:

* **firebox**: the base in NF4 (`tests/bench/train.rs`); with all logits at once, with the loss in chunks, and with layers computed
  again in the backward pass;
* **Burn**: the model loaded dense, its projections packed by `apply_qlora` in 8 bits;
* **peft**: bitsandbytes' NF4, in f32 with and without gradient checkpointing, and in bf16.

The first step of a process is left out. Shown are medians over rounds: tokens a second of training (input tokens, over forward,
backward and optimizer), how much faster firebox's first way is than that way in the same round, the resident memory before the first step, its
peak while training, and its peak in the whole process with the load.
"""

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
OURS = {
    "firebox": "whole",
    "firebox, loss in chunks": "chunked",
    "firebox, chunks, recompute": "recompute",
    "Burn's apply_qlora, Q8S": "burn",
}
THEIRS = {
    "peft, f32": ("float32", False),
    "peft, f32, checkpointing": ("float32", True),
    "peft, bf16": ("bfloat16", False),
}


def status(field):
    """Bytes of this process that the system counts."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))


def drawn(count, vocabulary):
    """The tokens that `tests/bench/train.rs` draws."""
    state, tokens = 1, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1) % (1 << 64)
        tokens.append((state >> 33) % vocabulary)
    return tokens


def theirs(model, dtype, checkpointing, rows, length, steps):
    """A process of theirs: trains, and tells its seconds and memory as JSON."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, dtype)
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map="cpu", quantization_config=packed)
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(base, config)
    tuned.train()
    trained = [param for param in tuned.parameters() if param.requires_grad]
    if {param.dtype for param in trained} != {torch.float32}:
        raise RuntimeError(f"factors of { {param.dtype for param in trained} }")
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    loaded, resident = status("VmHWM"), status("VmRSS")
    # The peak from here on is that of training.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    ids = torch.tensor(drawn(rows * (length + 1), base.config.vocab_size)).view(rows, length + 1)
    seconds, losses = [], []
    for _ in range(steps):
        started = time.perf_counter()
        logits = tuned(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    told = {"loaded": loaded, "resident": resident, "peak": status("VmHWM"), "seconds": seconds, "losses": losses}
    print(json.dumps(told | {"threads": torch.get_num_threads()}))


def bench():
    """The program of `tests/bench/train.rs`."""
    built = ["cargo", "bench", "--bench", "train", "--no-run", "--message-format=json"]
    lines = subprocess.run(built, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    return next(one["executable"] for one in found if one.get("executable") and one["target"]["name"] == "train")


def run(command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr.strip()[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path)
    options.add_argument("--like", default="llama-3.2-1b")
    options.add_argument("--size", default="1GB")
    options.add_argument("--rows", type=int, default=1)
    options.add_argument("--length", type=int, default=256)
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", default="*", metavar="GLOB")
    options.add_argument("--program", help="the program of tests/bench/train.rs")
    options.add_argument("--firebox", default=ROOT / "target/release/firebox")
    options.add_argument("--json", type=Path)
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = options.parse_args()
    shape = [options.rows, options.length, options.steps]
    if options.child:
        dtype, checkpointing = options.child
        return theirs(options.model, dtype, checkpointing == "True", *shape)

    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "model"
        if not (model / "config.json").exists():
            made = [options.firebox, "synth", "--like", options.like, "--size", options.size, "--out", model]
            subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        program = options.program or bench()
        ways = {name: [program, model, way, *shape] for name, way in OURS.items()}
        given = ["--model", model, "--rows", options.rows, "--length", options.length, "--steps", options.steps]
        for name, child in THEIRS.items():
            ways[name] = [sys.executable, __file__, *given, "--child", *child]
        ways = {name: way for name, way in ways.items() if fnmatch.fnmatch(name, options.only)}
        rounds = [{name: run(way) for name, way in ways.items()} for _ in range(options.rounds)]

    named = ", ".join(f"{library} {metadata.version(library)}" for library in ("peft", "bitsandbytes", "torch"))
    print(f"\n{named}; {options.rows} x {options.length} tokens, {os.cpu_count()} cores, {options.rounds} rounds\n")
    print("| base and adapter | tokens a second | firebox is | resident before | peak of training | peak of the process |")
    print("|---|---|---|---|---|---|")
    tokens = options.rows * options.length
    step = lambda told: statistics.median(told["seconds"][1:])
    first = next(iter(ways))
    for name in ways:
        told = [one[name] for one in rounds]
        middle = lambda of: statistics.median(map(of, told))
        speed = middle(lambda one: tokens / step(one))
        ratio = statistics.median(step(one[name]) / step(one[first]) for one in rounds)
        memory = [f"{middle(lambda one: one[key]) / MIB:.0f} MiB" for key in ("resident", "peak", "loaded")]
        whole = middle(lambda one: max(one["peak"], one["loaded"])) / MIB
        print(f"| {name} | {speed:.1f} | {ratio:.2f} x | {memory[0]} | {memory[1]} | {whole:.0f} MiB |")
        print(f"{name}: losses {told[-1]['losses']}, seconds {told[-1]['seconds']}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1), encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
