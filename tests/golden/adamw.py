"""Makes `vectors/adamw.safetensors`: steps of torch's AdamW in f32 and of bitsandbytes' AdamW in 8 bits.

    python adamw.py OUT

Needs torch 2.15.0, bitsandbytes 0.50.2, safetensors. Gradients are made by `values` below, which the test repeats, so that
they take no room. bitsandbytes runs without its library for the CPU, that is with its portable code: the library looks
codes up in 65536 bins and misses the nearest one, while the portable code and that for CUDA find it.
"""

import ctypes
import json
import sys

import numpy as np
import torch
from safetensors.torch import save_file


def no_library(path, load=ctypes.cdll.LoadLibrary):
    if "bitsandbytes" in path:
        raise OSError("not used")
    return load(path)


ctypes.cdll.LoadLibrary = no_library
import bitsandbytes as bnb  # noqa: E402
from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary, lib  # noqa: E402
from bitsandbytes.functional import create_dynamic_map  # noqa: E402

assert isinstance(lib, ErrorHandlerMockBNBNativeLibrary)
torch.set_num_threads(1)
STEPS = 10


def values(seed, shape):
    """Sixteen bits of a multiplicative hash, centred, times a power of two: exact in f32."""
    n = int(np.prod(shape))
    mixed = (np.arange(n, dtype=np.uint64) + np.uint64(seed) * np.uint64(1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (mixed >> np.uint64(32)).astype(np.int64)
    fraction = ((bits >> 4 & 0xFFFF) - 0x8000) / 0x8000
    return torch.from_numpy((fraction * 2.0 ** -(bits & 0xF)).astype(np.float32).reshape(shape))


def rate(step):
    return 1e-3 * (step + 1)


tensors, cases = {}, []


def case(name, shape, make, settings, record):
    parameter = torch.nn.Parameter(values(0, shape))
    optimizer = make([parameter], lr=1.0, **settings)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        parameter.grad = values(step + 1, shape)
        optimizer.step()
        record(f"{name}/{step + 1}", optimizer.state[parameter], parameter.detach().clone())
    settings = dict(settings, beta=settings.get("betas", (0.9, 0.999)))
    settings.pop("betas", None)
    cases.append(dict(name=name, shape=shape, **settings))


def in_full(name, state, parameter):
    tensors[f"{name}/parameter"] = parameter
    if name.endswith(f"/{STEPS}"):
        for part in ("exp_avg", "exp_avg_sq"):
            tensors[f"{name}/{part}"] = state[part].clone()


def in_blocks(name, state, parameter):
    last = name.endswith(f"/{STEPS}")
    for part in ("state1", "state2", "absmax1", "absmax2"):
        if state["state1"].dtype == torch.uint8 and (last or name.startswith("blocks/")):
            tensors[f"{name}/{part}"] = state[part].clone()
    if last:
        tensors[f"{name}/parameter"] = parameter


case("torch_defaults", [7, 9], torch.optim.AdamW, {}, in_full)
case("torch_other", [7, 9], torch.optim.AdamW, dict(betas=(0.8, 0.95), eps=1e-5, weight_decay=0.1), in_full)
case("blocks", [17, 248], bnb.optim.AdamW8bit, {}, in_blocks)
case("blocks_other", [4096], bnb.optim.AdamW8bit, dict(betas=(0.8, 0.95), eps=1e-5, weight_decay=0.0), in_blocks)
case("small", [5, 7], bnb.optim.AdamW8bit, {}, in_blocks)
for signed, name in ((True, "signed"), (False, "unsigned")):
    tensors[f"map/{name}"] = create_dynamic_map(signed=signed)
doc = "parameters, moments and codes after each step `<case>/<step>/<field>`; see tests/golden/adamw.py"
versions = json.dumps({"torch": torch.__version__, "bitsandbytes": bnb.__version__})
save_file(tensors, sys.argv[1], metadata={"cases": json.dumps(cases), "doc": doc, "versions": versions})
