#!/usr/bin/env python3
"""How long a load to NF4 takes: firebox, and transformers with bitsandbytes on the CPU, of one checkpoint, in turns.

    python tests/peers/load_speed.py [--model DIR] [--rounds N] [--threads N] [--cold] [--firebox PROGRAM]

Without a checkpoint in DIR one is made there, with `firebox synth`; without --model in a temporary folder. Each load is
a process of its own, ours and theirs in turn, both with weights packed as NF4 in blocks of 64, embedding and head
dense in bf16. Three clocks:

* **process**: from its start until it has gone;
* **load**: `from_pretrained` of transformers alone, after all imports and after the load of a model of some kB,
  and what firebox says of itself;
* **on cores**: seconds of processor time of all threads, of the process.

The ratio that is claimed is theirs without imports to ours with everything. Anonymous memory is sampled every
4 ms, so that a peak may be higher; resident memory is counted by the system, with the pages of files that are mapped.

The checkpoint is in the page cache before each load, or out of it with --cold; both are confirmed. Every load of theirs
is checked to have packed each linear weight. After the last load the first and the last of them are compared with those
of `firebox quantize`, bit for bit, and the bytes that both hold. A difference is in bold, and the exit code is 1.
"""

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from common import BF16, MODELS, differing, find, tensors

SAMPLE = 0.004
MIB = 1 << 20
OURS, THEIRS = "firebox", "transformers"
SHOWN = ["process", "load", "on_cores", "anonymous", "resident"]


def theirs(model, threads, out):
    """A process of theirs: loads, tells its seconds as JSON, and leaves two packed weights in the folder `out`."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    started = time.perf_counter()
    import bitsandbytes as bnb
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.set_num_threads(threads)

    def load(folder):
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16,
            device_map="cpu",
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            ),
        )

    # transformers imports a good part of itself when it is first asked for a model.
    load(MODELS / BF16)
    imported, core = time.perf_counter(), time.process_time()
    loaded = load(model)
    seconds, core = time.perf_counter() - imported, time.process_time() - core

    weights = {}
    for name, module in loaded.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not loaded.get_output_embeddings():
            weight = module.weight
            if type(module) is not bnb.nn.Linear4bit or weight.dtype != torch.uint8 or weight.quant_state is None:
                raise RuntimeError(f"{name} is a {type(module).__name__} of {weight.dtype}: not packed")
            state = weight.quant_state
            if (state.quant_type, state.blocksize, state.nested) != ("nf4", 64, False):
                raise RuntimeError(f"{name} is packed as {state.as_dict()}")
            weights[f"{name}.weight"] = weight
    dense = [p for p in loaded.parameters() if not isinstance(p, bnb.nn.Params4bit)]
    if not weights or {weight.dtype for weight in dense} != {torch.bfloat16}:
        raise RuntimeError(f"{len(weights)} packed, and others of { {weight.dtype for weight in dense} }")
    held = sum(w.nbytes for w in dense) + sum(w.nbytes + w.quant_state.absmax.nbytes for w in weights.values())
    names = list(weights)
    checked = [names[0], names[-1]]
    for place, name in enumerate(checked):
        np.save(f"{out}/codes{place}.npy", weights[name].data.numpy())
        np.save(f"{out}/absmax{place}.npy", weights[name].quant_state.absmax.numpy())
    told = {"load": seconds, "load_on_cores": core, "imports": imported - started, "held": held}
    print(json.dumps(told | {"packed": len(weights), "checked": checked, "threads": torch.get_num_threads()}))


class Anonymous(threading.Thread):
    """The most anonymous memory of a process, in bytes, looked at until it ends."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.file, self.peak, self.samples = os.open(f"/proc/{pid}/status", os.O_RDONLY), 0, 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(SAMPLE):
            try:
                status = os.pread(self.file, 1 << 13, 0)
            except ProcessLookupError:
                return
            _, found, rest = status.partition(b"RssAnon:")
            if not found:
                return
            self.peak, self.samples = max(self.peak, int(rest.split()[0]) << 10), self.samples + 1

    def end(self):
        self.over.set()
        self.join()
        os.close(self.file)


def timed(command, threads, log):
    """Runs a process that prints JSON, and adds what the system says of it."""
    counts = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"], str(threads))
    with open(log, "w+", encoding="utf-8") as out, open(f"{log}.err", "w+", encoding="utf-8") as err:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | counts)
        memory = Anonymous(child.pid)
        memory.start()
        _, status, used = os.wait4(child.pid, 0)
        process = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        memory.end()
        out.seek(0)
        err.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))}: {child.returncode}\n{err.read().strip()[-4000:]}")
        told = json.loads(out.read())
    told |= {"process": process, "on_cores": used.ru_utime + used.ru_stime, "samples": memory.samples}
    return told | {"anonymous": memory.peak / MIB, "resident": used.ru_maxrss / 1024}


def resident(path):
    """Which share of a file's pages the page cache has."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        at = np.frombuffer(mapped, np.uint8)
        first, found = (ctypes.c_void_p(array.ctypes.data) for array in (at, pages))
        failed = libc.mincore(first, ctypes.c_size_t(size), found)
        del at
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore of {path}")
    return float(np.mean(pages & 1))


def cache(files, cold):
    """Takes the files into the page cache, or out of it."""
    buffer = bytearray(4 * MIB)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            if cold:
                # Pages that are still to be written stay.
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.readinto(buffer):
                    pass
        there = resident(path)
        if there > 0.01 if cold else there < 0.99:
            sys.exit(f"{path}: {there:.0%} of it is in the page cache, {'none' if cold else 'all'} was asked for")


def compare(program, model, folder, last):
    """What is wrong with the last loads of both, of what can be seen from outside."""
    made = Path(folder) / "made"
    subprocess.run([program, "quantize", model, "--quant", "nf4", "--out", made], check=True, capture_output=True)
    ours, wrong = tensors(made), []
    for place, name in enumerate(last[THEIRS]["checked"]):
        for what, tensor in [("codes", ours[name]), ("absmax", ours[f"{name}.absmax"])]:
            theirs = np.load(f"{folder}/{what}{place}.npy")
            found = differing(tensor.array, theirs)
            print(f"{name}, {what}: {theirs.size - found} of {theirs.size} equal", flush=True)
            if found:
                wrong.append(f"{what} of {name}: {found} differ")
    packed = sum(tensor["quant"] != "none" for tensor in last[OURS]["per_tensor"])
    for what, ours, theirs in [
        ("packed weights", packed, last[THEIRS]["packed"]),
        ("bytes held", last[OURS]["bytes_packed"], last[THEIRS]["held"]),
    ]:
        print(f"{what}: {ours}, theirs {theirs}")
        if ours != theirs:
            wrong.append(f"{what}: {ours}, theirs {theirs}")
    return wrong


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--firebox", help="the program, if not that of target/release or target/debug")
    options.add_argument("--model", metavar="DIR", help="the checkpoint, of Llama in bf16")
    options.add_argument("--like", default="llama-3.2-1b", help="whose shapes a checkpoint has that is made")
    options.add_argument("--size", default="1.7GB", help="and its bytes")
    options.add_argument("--rounds", type=int, default=3, metavar="N", help="loads of each; 3 if not given")
    cores = sorted(os.sched_getaffinity(0))
    options.add_argument("--threads", type=int, default=len(cores), metavar="N", help="of each; all cores if not given")
    options.add_argument("--cold", action="store_true", help="drop the checkpoint from the page cache before each load")
    options.add_argument("--reading", default="auto", help="how firebox reads: auto, buffered, mapped or direct")
    options.add_argument("--json", metavar="FILE", help="the figures for programs too")
    options.add_argument("--theirs", metavar="FOLDER", help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.theirs:
        return theirs(options.model, options.threads, options.theirs)
    if options.rounds < 1 or options.threads < 1:
        sys.exit("--rounds and --threads are at least 1")

    # Ours has threads that read beside those that are counted, theirs too: neither gets more cores by that.
    os.sched_setaffinity(0, cores[: options.threads])
    program = find(options.firebox)
    with tempfile.TemporaryDirectory(prefix="firebox-peers-") as folder:
        model = Path(options.model or f"{folder}/model")
        if not (model / "config.json").exists():
            synth = [program, "synth", "--like", options.like, "--size", options.size, "--out", model]
            subprocess.run(synth, check=True, stdout=subprocess.DEVNULL)
        wrong = measure(options, program, model, folder)
    if wrong:
        sys.exit("\n".join(f"**{line}**" for line in wrong))


def measure(options, program, model, folder):
    files = sorted(model.glob("model*.safetensors"))
    source, threads = sum(path.stat().st_size for path in files), str(options.threads)
    where = "out of" if options.cold else "in"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ["torch", "transformers", "bitsandbytes"])
    print(f"\n## {Path(__file__).name}: {versions}; {source / 1e9:.2f} GB, {threads} threads, {where} the page cache\n")
    print("| round | | process s | load s | on cores s | anonymous MiB | resident MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    quant = ["--quant", "nf4", "--dtype", "bf16"]
    commands = {
        OURS: [program, "load", model, *quant, "--workers", threads, "--reading", options.reading, "--json"],
        THEIRS: [sys.executable, __file__, "--theirs", folder, "--model", model, "--threads", threads],
    }
    runs = {side: [] for side in commands}
    for turn in range(options.rounds):
        for side, command in commands.items():
            cache(files, options.cold)
            told = timed(list(map(str, command)), options.threads, f"{folder}/{side}")
            told.setdefault("load", told.get("seconds"))
            runs[side].append(told)
            row(turn + 1, side, told)

    def median(side, key):
        return statistics.median(told[key] for told in runs[side])

    for side in runs:
        row("median", side, {key: median(side, key) for key in SHOWN})
    pairs = [b["load"] / a["process"] for a, b in zip(runs[OURS], runs[THEIRS])]
    claimed = [median(THEIRS, b) / median(OURS, a) for a, b in [("process", "load"), ("on_cores", "load_on_cores")]]
    like = {key: median(THEIRS, key) / median(OURS, key) for key in SHOWN}
    print(f"\nTheirs without imports to ours with everything: {claimed[0]:.1f} x ", end="")
    print(f"(pairs: {', '.join(f'{pair:.1f}' for pair in pairs)}), on cores {claimed[1]:.1f} x.")
    print(f"Processes: {like['process']:.1f} x, loads {like['load']:.1f} x; ", end="")
    print(f"memory, anonymous {like['anonymous']:.1f} x, resident {like['resident']:.1f} x.\n", flush=True)
    if options.json:
        figures = {"source": source, "threads": options.threads}
        for side, told in runs.items():
            figures[side] = [{key: run[key] for key in run if key != "per_tensor"} for run in told]
        Path(options.json).write_text(json.dumps(figures, indent=1))
    return compare(program, model, folder, {side: told[-1] for side, told in runs.items()})


def row(name, side, told):
    seconds = " | ".join(f"{told[key]:.2f}" for key in ["process", "load", "on_cores"])
    print(f"| {name} | {side} | {seconds} | {told['anonymous']:.0f} | {told['resident']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
