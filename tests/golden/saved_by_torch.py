#!/usr/bin/env python3
"""Writes `tests/golden/torch`: files of `torch.save`, and what torch reads from them as safetensors.

    tests/golden/saved_by_torch.py tests/golden

Versions: `tests/golden/README.md`.
"""
import json
import os
import shutil
import sys
import zipfile

import torch
from safetensors.torch import load_file, save_file

ROOT = sys.argv[1]
OUT = os.path.join(ROOT, "torch")
TYPES = (
    "bfloat16 bool complex64 float16 float32 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "int16 int32 int64 int8 uint16 uint32 uint64 uint8"
).split()


def expected(name, state):
    tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
    save_file(tensors, os.path.join(OUT, f"{name}.safetensors"))


def both(name, state, saved=None):
    """A zip archive and an older file of `saved`, whose tensors are those of `state`."""
    saved = state if saved is None else saved
    torch.save(saved, os.path.join(OUT, f"{name}.pt"))
    torch.save(saved, os.path.join(OUT, f"{name}.legacy.pt"), _use_new_zipfile_serialization=False)
    expected(name, state)


def types():
    torch.manual_seed(20261130)
    state = {}
    for name in TYPES:
        dtype = getattr(torch, name)
        size = torch.empty(0, dtype=dtype).element_size()
        random = torch.randint(0, 2 if dtype == torch.bool else 256, (6 * size,), dtype=torch.uint8)
        state[f"of.{name}"] = random.view(dtype).reshape(2, 3)
    return state


def views():
    base = torch.arange(240, dtype=torch.float32)
    matrix = base.reshape(12, 20)
    halves = torch.arange(120, dtype=torch.bfloat16).reshape(2, 3, 4, 5)
    return {
        "whole": matrix,
        "same": matrix,
        "turned": matrix.t(),
        "rows": matrix[3:7],
        "columns": matrix[:, 5:9],
        "turned_columns": matrix[2:5, 5:9].t(),
        "every_third": base[1::3],
        "one_row": matrix[4:5].expand(1, 20),
        "scalar": base[17],
        "empty": matrix[:0],
        "permuted": halves.permute(3, 0, 2, 1),
        "nothing": torch.zeros(3, 0, 2),
    }


def wrapped(name, module):
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = module.state_dict()
    saved = {"epoch": 3, "state_dict": state, "optimizer": optimizer.state_dict(), "rng_state": torch.get_rng_state()[:8].clone()}
    both(name, state, saved)


def big_endian(name, state):
    """As a machine with the other byte order writes it; torch on this one says what its values are."""
    source, target = (os.path.join(OUT, f"{end}.pt") for end in ("views", name))
    parts = {"float32": 4, "bfloat16": 2}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        order = {str(tensor.untyped_storage().data_ptr()): tensor.dtype for tensor in state.values()}
        sizes = {tensor.untyped_storage().nbytes(): parts[str(tensor.dtype)[6:]] for tensor in state.values()}
        assert len(order) >= 2
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in entry and content:
                size = sizes[len(content)]
                content = b"".join(content[at : at + size][::-1] for at in range(0, len(content), size))
            new.writestr(zipfile.ZipInfo(entry), content)
    read = torch.load(target)
    assert all(torch.equal(read[key], value) for key, value in state.items())
    expected(name, read)


def model(folder):
    state = load_file(os.path.join(ROOT, "models", folder, "model.safetensors"))
    for end, zipped in (("bin", True), ("legacy.bin", False)):
        path = os.path.join(OUT, f"{folder}.{end}")
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    # Two shards as transformers saved them, of Parameters; the second is an older file.
    names = sorted(state)
    weight_map = {}
    for nth, part in enumerate((names[::2], names[1::2])):
        shard = f"pytorch_model-{nth + 1:05}-of-00002.bin"
        weight_map.update(dict.fromkeys(part, shard))
        parameters = {name: torch.nn.Parameter(state[name]) for name in part}
        os.makedirs(os.path.join(OUT, "shards"), exist_ok=True)
        torch.save(parameters, os.path.join(OUT, "shards", shard), _use_new_zipfile_serialization=nth == 0)
    with open(os.path.join(OUT, "shards", "pytorch_model.bin.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": 1}, "weight_map": weight_map}, file, indent=2)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    both("types", types())
    both("views", views())
    torch.manual_seed(1)
    wrapped("wrapped", torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4).eval()))
    parameters = {"a": torch.nn.Parameter(torch.randn(2, 2)), "b": {"c": torch.randn(3), "d": [torch.randn(1), torch.randn(1)]}, "x": 5}
    flat = {"a": parameters["a"], "b.c": parameters["b"]["c"], "b.d.0": parameters["b"]["d"][0], "b.d.1": parameters["b"]["d"][1]}
    both("nested", flat, parameters)
    big_endian("big_endian", views())
    model("llama_rope_linear")


main()
