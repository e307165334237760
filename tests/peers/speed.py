#!/usr/bin/env python3
"""One table of speed: firebox and its peers on the CPU, in turns, in one run.

    cargo build --release
    python tests/peers/speed.py [--folder DIR] [--size 2GB] [--rounds N] [--only WORD] [--threads 1,2] [--json FILE]

The model is synthetic, in the shapes of Llama-3-8B, as many layers as `--size` holds; it is made in --folder, and kept there with
its GGUF files. Rows:

* **prompt**: tokens a second of 512 tokens at once;
* **generation**: tokens a second of single tokens after them;
* **quantize**: seconds from bf16 to a quantized file on the disk, processes from start to end;
* **load**: seconds from bf16 to NF4 in memory (`load_speed.py`).

Peers are llama.cpp through llama-cpp-python, PyTorch through transformers, and bitsandbytes; a peer that is not installed has no
rows. Every measurement is a process of its own, held to as many cores as it has threads; in each round every row has its turn.
Shown are medians, the least and the most. A ratio is above 1 where firebox is faster, and is that of the medians.

Answers are checked: llama.cpp's logits of a GGUF file with those of `firebox logits` of the same file, which is exact where llama.cpp
rounds activations to 8 bits; and every run of ours with the first run. The exit code is 1 where they differ.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path

import numpy as np

from common import find, tensors

PROMPT, TOKENS = 512, 32
# Rounding of activations moves a logit by about 0.01 of the logits' deviation; a wrong format by more than 1.
ALLOWED = 0.1

# What is measured of ours: name, arguments after the model, the GGUF file it reads instead, and the peers beside it.
OURS = [
    ("nf4", ["--quant", "nf4"], None, ["llama.cpp Q4_0", "torch bf16", "torch f32"]),
    ("nf4, int8", ["--quant", "nf4", "--compute", "int8"], None, ["llama.cpp Q4_0"]),
    ("mlx 4 bits", ["--quant", "mlx:bits=4"], None, ["llama.cpp Q4_0"]),
    ("q4_0", [], "q4_0", ["llama.cpp Q4_0"]),
    ("q4_0, int8", ["--compute", "int8"], "q4_0", ["llama.cpp Q4_0"]),
    ("int8", ["--quant", "int8"], None, ["llama.cpp Q8_0"]),
    ("fp8", ["--quant", "fp8:e4m3,scale=channel"], None, ["llama.cpp Q8_0"]),
    ("q8_0, int8", ["--compute", "int8"], "q8_0", ["llama.cpp Q8_0"]),
    ("bf16, as stored", [], None, ["torch bf16"]),
]


def ids(count, vocabulary):
    """The tokens of `firebox bench`."""
    return [k * 7919 % vocabulary for k in range(count)]


def llama(path, threads):
    """A process of llama.cpp: seconds of a prompt, and of the tokens after it."""
    from llama_cpp import Llama

    model = Llama(str(path), n_ctx=PROMPT + TOKENS, n_batch=PROMPT, n_ubatch=PROMPT, n_threads=threads,
                  n_threads_batch=threads, verbose=False)
    tokens = ids(PROMPT + TOKENS, model.n_vocab())
    model.eval(tokens[:8])
    model.reset()
    return in_turn(tokens, model.eval)


def logits(path):
    """Logits of llama.cpp for a few tokens, `[tokens, vocabulary]`."""
    from llama_cpp import Llama

    model = Llama(str(path), n_ctx=64, logits_all=True, verbose=False)
    model.eval(ids(16, model.n_vocab()))
    return np.array(model.scores[:16])


def torch(model, dtype, threads):
    """A process of PyTorch: the same."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    cache = None

    @torch.inference_mode()
    def step(tokens):
        nonlocal cache
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values

    tokens = ids(PROMPT + TOKENS, model.config.vocab_size)
    step(tokens[:8])
    cache = None
    return in_turn(tokens, step)


def in_turn(tokens, step):
    started = time.perf_counter()
    step(tokens[:PROMPT])
    prompt = time.perf_counter()
    for token in tokens[PROMPT:]:
        step([token])
    return {"prompt": PROMPT / (prompt - started), "generation": TOKENS / (time.perf_counter() - prompt)}


def llama_quantize(source, out, threads):
    """A process of llama-quantize: seconds of its own work."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, threads
    started = time.perf_counter()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params):
        raise RuntimeError("llama_model_quantize failed")
    return {"quantize": time.perf_counter() - started}


CHILDREN = {"llama": llama, "torch": torch, "quantize": llama_quantize}


def run(command, threads):
    """What a process prints as JSON, held to `threads` cores."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    counts = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"], str(threads))
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=os.environ | counts,
                          preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1] if done.stdout.startswith("{\"") else done.stdout)


class Harness:
    def __init__(self, options):
        self.program, self.rounds, self.only = find(options.firebox), options.rounds, options.only
        self.threads = [int(count) for count in options.threads.split(",")]
        self.folder = Path(options.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = self.folder / f"model-{options.size}"
        if not (self.model / "config.json").exists():
            self.firebox("synth", "--like", "llama-3-8b", "--size", options.size, "--out", self.model)
        self.has_llama, self.has_torch = (util.find_spec(name) is not None for name in ["llama_cpp", "transformers"])
        self.found, self.wrong = {}, []

    def firebox(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"firebox {' '.join(map(str, arguments))}: {done.stderr.strip()}")

    def gguf(self, kind):
        """The model as a GGUF file, written by firebox once."""
        out = self.folder / f"{self.model.name}-{kind}"
        if not (out / "model.gguf").exists():
            plain = kind in ("f16", "bf16", "f32")
            quant = ["--dtype", kind] if plain else ["--quant", kind, "--rule", f"role:embedding={kind}",
                                                     "--rule", f"role:head={kind}"]
            self.firebox("quantize" if not plain else "convert", self.model, *quant, "--to", "gguf", "--out", out)
        return out / "model.gguf"

    def child(self, kind, *arguments, threads):
        return run([sys.executable, __file__, "--child", kind, json.dumps([*map(str, arguments), threads])], threads)

    def ways(self, threads):
        """Everything that a round measures with so many threads: its name, and a function that gives figures by row."""
        for name, arguments, gguf, _ in OURS:
            model = self.gguf(gguf) if gguf else self.model
            command = [self.program, "bench", model, *arguments, "--prompt-tokens", PROMPT, "--new-tokens", TOKENS,
                       "--rounds", 1, "--json"]
            yield name, lambda command=command: ours(run(command, threads))
        if self.has_llama:
            for kind in ["q4_0", "q8_0"]:
                path = self.gguf(kind)
                yield f"llama.cpp {kind.upper()}", lambda path=path: self.child("llama", path, threads=threads)
        if self.has_torch and threads == max(self.threads):
            for dtype in ["bfloat16", "float32"]:
                name = {"bfloat16": "torch bf16", "float32": "torch f32"}[dtype]
                yield name, lambda dtype=dtype: self.child("torch", self.model, dtype, threads=threads)
        if threads == max(self.threads):
            for name, arguments in [("nf4:nested", ["--quant", "nf4:nested"]), ("q4_0", ["--quant", "q4_0", "--to", "gguf"])]:
                yield f"quantize {name}", lambda arguments=arguments: self.quantize(arguments)
            if self.has_llama:
                yield "llama-quantize Q4_0", lambda: self.peer_quantize(threads)

    def quantize(self, arguments):
        out = self.folder / "quantized"
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        self.firebox("quantize", self.model, *arguments, "--out", out)
        seconds = time.perf_counter() - started
        shutil.rmtree(out)
        return {"quantize": seconds}

    def peer_quantize(self, threads):
        source, out = self.gguf("bf16"), self.folder / "quantized.gguf"
        figures = self.child("quantize", source, out, threads=threads)
        out.unlink()
        return figures

    def measure(self):
        for turn in range(self.rounds):
            for threads in self.threads:
                for name, figures in self.ways(threads):
                    if self.only not in name:
                        continue
                    for row, figure in figures().items():
                        self.found.setdefault((row, threads, name), []).append(figure)
                        print(f"round {turn + 1}: {row}, {threads} threads, {name}: {figure:.2f}", file=sys.stderr, flush=True)

    def check(self):
        """llama.cpp's logits and ours of one file."""
        for kind in ["q4_0", "q8_0"] if self.has_llama else []:
            path = self.gguf(kind)
            theirs = logits(path)
            with tempfile.TemporaryDirectory(prefix="firebox-peers-") as folder:
                out = Path(folder) / "logits.safetensors"
                tokens = ",".join(map(str, ids(16, theirs.shape[1])))
                self.firebox("logits", path, "--tokens", tokens, "--out", out)
                ours = tensors(out)["logits"].f32()
            apart = float(np.sqrt(np.mean((ours - theirs) ** 2)) / np.std(theirs))
            print(f"logits of {kind}: {apart:.4f} of their deviation apart, {ALLOWED} allowed")
            if not apart < ALLOWED:
                self.wrong.append(f"logits of {kind} are {apart:.3f} apart")

    def table(self):
        print(f"\n{machine()}; medians of {self.rounds} rounds.\n")
        print("| work | threads | firebox | | beside it | | ratio |")
        print("|---|---|---|---|---|---|---|")
        beside = {name: peers for name, _, _, peers in OURS}
        for row in ["prompt", "generation"]:
            for threads in self.threads:
                for name, peers in beside.items():
                    for peer in peers:
                        self.line(row, threads, name, peer, faster=lambda ours, theirs: ours / theirs)
        for name in ["quantize nf4:nested", "quantize q4_0"]:
            self.line("quantize", max(self.threads), name, "llama-quantize Q4_0", faster=lambda ours, theirs: theirs / ours)

    def line(self, row, threads, name, peer, faster):
        sides = [self.found.get((row, threads, side)) for side in (name, peer)]
        if sides[0] is None:
            return
        shown = [f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})" if of else "" for of in sides]
        ratio = f"{faster(*map(statistics.median, sides)):.2f}" if sides[1] else ""
        unit = "s" if row == "quantize" else "tokens/s"
        print(f"| {row}, {unit} | {threads} | {name} | {shown[0]} | {peer if sides[1] else ''} | {shown[1]} | {ratio} |")

    def load(self):
        """The rows of `load_speed.py`, which has turns of its own."""
        if self.only in "load" and self.has_torch and util.find_spec("bitsandbytes"):
            script = Path(__file__).with_name("load_speed.py")
            command = [sys.executable, script, "--model", self.model, "--rounds", self.rounds, "--firebox", self.program]
            done = subprocess.run(list(map(str, command)), check=False)
            if done.returncode:
                self.wrong.append("load_speed.py")


def ours(told):
    return {"prompt": told["prompt_tokens_per_second"], "generation": told["tokens_per_second"]}


def machine():
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    field = lambda key: next((line.partition(": ")[2] for line in info if line.startswith(key)), "")
    wide = [flag for flag in ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"] if flag in field("flags").split()]
    load = ", ".join(f"{of:.1f}" for of in os.getloadavg())
    packages = ["llama-cpp-python", "torch", "transformers", "bitsandbytes"]
    versions = [f"{name} {metadata.version(name)}" for name in packages if installed(name)]
    cores = len(os.sched_getaffinity(0))
    return f"{field('model name') or platform.processor()}, {cores} cores ({' '.join(wide)}), load {load}; {', '.join(versions)}"


def installed(name):
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--firebox", help="the program, if not that of target/release or target/debug")
    options.add_argument("--folder", default="target/bench/speed", metavar="DIR", help="where models are kept")
    options.add_argument("--size", default="2GB", help="bytes of the checkpoint that is made")
    options.add_argument("--rounds", type=int, default=5, metavar="N", help="5 if not given")
    cores = len(os.sched_getaffinity(0))
    threads = ",".join(map(str, sorted({1, cores})))
    options.add_argument("--threads", default=threads, metavar="N,N", help="one and all cores if not given")
    options.add_argument("--only", default="", metavar="WORD", help="rows whose names contain this word")
    options.add_argument("--json", metavar="FILE", help="every figure of every round")
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.child:
        kind, arguments = options.child
        print(json.dumps(CHILDREN[kind](*json.loads(arguments))))
        return
    harness = Harness(options)
    harness.check()
    harness.measure()
    harness.table()
    harness.load()
    if options.json:
        rows = [{"row": row, "threads": threads, "name": name, "rounds": of}
                for (row, threads, name), of in harness.found.items()]
        Path(options.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if harness.wrong:
        sys.exit("\n".join(f"**{line}**" for line in harness.wrong))


if __name__ == "__main__":
    main()
