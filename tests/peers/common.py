"""What the scripts beside it share: firebox is run, its files are read, bits are compared, a table is printed.

Needs numpy and nothing else, so that what a library gives is compared with what firebox wrote by code that knows
neither.
"""

import argparse
import fnmatch
import json
import os
import struct
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/golden/models"
PACKED = ROOT / "tests/golden/packed"
BF16 = "llama_bf16_untied"
F32 = "llama_f32_tied"
# What `tests/llama` allows between two ways to add the same products in f32.
LOGITS = 1e-4
# Between ours in f32 and a library's own, which computes in half types and may quantize activations: 1.1 was seen,
# and 3.8 and more with a wrong model.
OWN = 1.5

NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


class Tensor:
    """A tensor as it is stored: its type in safetensors' words, and its elements; bits, where numpy lacks the type."""

    def __init__(self, dtype, array):
        self.dtype, self.array = dtype, array

    def f32(self):
        """The elements in f32, which holds each exactly."""
        if self.dtype == "BF16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        if self.dtype not in ("F32", "F16"):
            raise ValueError(f"{self.dtype} is no float that f32 holds")
        return self.array.astype(np.float32)


def tensors(folder):
    """The tensors of a checkpoint's `model*.safetensors`, or of one file."""
    folder = Path(folder)
    found = {}
    for path in [folder] if folder.is_file() else sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = (8 + length + at for at in entry["data_offsets"])
            array = np.frombuffer(data[first:last], dtype=NUMPY[entry["dtype"]])
            if name in found:
                raise ValueError(f"{name} is in two files of {folder}")
            found[name] = Tensor(entry["dtype"], array.reshape(entry["shape"]))
    if not found:
        raise ValueError(f"no tensors in {folder}")
    return found


def differing(ours, theirs):
    """How many elements differ in a bit. Another shape or type is a difference of all."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return max(ours.size, theirs.size)
    bits = f"u{ours.dtype.itemsize}"
    ours, theirs = (np.ascontiguousarray(side).view(bits) for side in (ours, theirs))
    return int(np.count_nonzero(ours != theirs))


class Run:
    """Options, temporary folders and the table of one script."""

    def __init__(self, doc, libraries):
        options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--firebox", help="the program, if not that of target/release or target/debug")
        options.add_argument("--only", default="*", metavar="GLOB", help="cases to run, of those that the table names")
        options = options.parse_args()
        self.program, self.only = find(options.firebox), options.only
        self.folder = tempfile.TemporaryDirectory(prefix="firebox-peers-")
        self.failures, self.cases = 0, 0
        named = ", ".join(f"{library} {metadata.version(library)}" for library in libraries)
        print(f"\n## {Path(sys.argv[0]).name}: {named}\n")
        print("| case | compared |")
        print("|---|---|", flush=True)

    def firebox(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"firebox {' '.join(map(str, arguments))}: {done.stderr.strip()}")

    def path(self, name):
        """A path in a folder that goes when the script ends."""
        return Path(self.folder.name) / name

    def case(self, model, spec, *arguments):
        """A case of `firebox quantize` of a golden model or of a folder, unless the command line excludes it."""
        name = " ".join([spec, *arguments, "of", Path(model).name])
        return Case(self, name, model, spec, arguments) if fnmatch.fnmatch(name, self.only) else None

    def finish(self):
        self.folder.cleanup()
        print(f"\n{self.cases} cases, {self.failures} failures.", flush=True)
        sys.exit(1 if self.failures or not self.cases else 0)


def find(program):
    places = [program] if program else [ROOT / "target/release/firebox", ROOT / "target/debug/firebox"]
    for place in places:
        if os.access(place, os.X_OK):
            return str(Path(place).resolve())
    sys.exit(f"no program at {' or '.join(map(str, places))}: build it, or name it with --firebox")


class Case:
    """A checkpoint that firebox has quantized, and the same one that it has made plain again.

    `with run.case(…) as case:` turns an exception of a library into a failure of the case.
    """

    def __init__(self, run, name, model, spec, arguments):
        self.run, self.name, self.model = run, name, MODELS / model
        self.spec, self.arguments = spec, arguments
        self.folder = Path(run.folder.name) / f"{run.cases}"
        self.checks, self.compared = [], False
        run.cases += 1

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        raised = isinstance(error, Exception)
        if raised:
            self.check(f"{kind.__name__}: {error}", failed=True)
        elif not self.compared:
            self.check("nothing was compared", failed=True)
        print(f"| {self.name} | {'; '.join(self.checks)} |", flush=True)
        return raised

    def check(self, result, failed=False):
        """Adds to the table."""
        result = " ".join(result.split())
        self.checks.append(f"**{result[:600]}**" if failed else result)
        if failed:
            self.run.failures += 1

    def make(self):
        """Quantizes; gives the folder."""
        made = self.folder / "made"
        self.run.firebox("quantize", self.model, "--quant", self.spec, *self.arguments, "--out", made)
        plain = self.folder / "plain"
        self.run.firebox("convert", made, "--dequantize", "--dtype", "f32", "--out", plain)
        before, self.plain = tensors(self.model), tensors(plain)
        # What is stored otherwise than before was packed.
        self.made = tensors(made)
        self.packed = [
            name
            for name, tensor in before.items()
            if name not in self.made
            or self.made[name].dtype != tensor.dtype
            or self.made[name].array.shape != tensor.array.shape
        ]
        if not self.packed:
            raise RuntimeError("firebox packed nothing")
        return made

    def weights(self, check, theirs, rounded=None, of=None):
        """Compares f32 weights bit for bit; `theirs` has an array for each of `of`, by default for all tensors.

        `rounded(name, array)` makes of our f32 what the library's type can hold, where it gives narrower weights.
        """
        names = set(self.plain if of is None else of)
        missing, beyond = sorted(names - set(theirs)), sorted(set(theirs) - names)
        count, wrong = 0, []
        for name in sorted(names & set(theirs)):
            ours = self.plain[name].f32()
            ours = rounded(name, ours) if rounded else ours
            count += ours.size
            if found := differing(ours, theirs[name]):
                wrong.append(f"{name} in {found} of {ours.size}")
        failed = bool(wrong or missing or beyond or not count)
        self.compared |= bool(count)
        result = f"missing {missing}, more {beyond}, differ: {', '.join(wrong)}" if failed else f"{count} equal"
        self.check(f"{check}: {result}", failed)

    def json(self, folder):
        """The `config.json` of a folder."""
        return json.loads((folder / "config.json").read_text())

    def ids(self):
        return tensors(self.model / "logits.safetensors")["input_ids"].array[0].tolist()

    def logits(self, check, theirs, limit=LOGITS):
        """Compares logits, `[tokens, vocabulary]` in f32, with ours of the quantized checkpoint."""
        out = self.folder / "logits.safetensors"
        ids = ",".join(map(str, self.ids()))
        self.run.firebox("logits", self.folder / "made", "--tokens", ids, "--dtype", "f32", "--out", out)
        ours = tensors(out)["logits"].f32()
        if ours.shape != theirs.shape:
            return self.check(f"{check}: shape {theirs.shape}, not {ours.shape}", failed=True)
        self.compared = True
        apart = float(np.max(np.abs(ours - theirs)))
        # A NaN fails too.
        self.check(f"{check}: {apart:.1e} apart, {limit:g} allowed", failed=not apart <= limit)
