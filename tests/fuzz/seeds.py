#!/usr/bin/env python3
"""Writes seeds of the fuzz targets from the golden files, beside those written by hand and what fuzzers found.

    tests/fuzz/seeds.py [FOLDER...]

FOLDERs are checkpoints of `firebox quantize`, for the dialects that have no golden file. Standard library only.
"""
import glob
import json
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "../golden")


def write(target, name, content):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def compact(path):
    with open(path, encoding="utf-8") as file:
        return json.dumps(json.load(file), separators=(",", ":")).encode()


def tensors(folder):
    """Name, type, shape and bytes of every tensor, in the order of the files."""
    for path in sorted(glob.glob(f"{folder}/model*.safetensors")):
        with open(path, "rb") as file:
            raw = file.read()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            yield name, entry["dtype"], entry["shape"], raw[8 + length + start : 8 + length + end]


def line(name, dtype, shape, values):
    """Bytes that a reader checks are kept: tables of levels, states in JSON, scalars, lists of groups."""
    kept = any(part in name for part in ("quant_map", "quant_state", "g_idx", "weight_shape")) or len(values) <= 16
    words = [name, dtype, ",".join(map(str, shape))] + ([values.hex()] if kept else [])
    return "|".join(words).encode()


def checkpoint(name, options, config, lines):
    content = b"\n".join([options, config, *lines]) + b"\n"
    # The dialects of larger ones have smaller seeds.
    if len(content) < 9000 or "nested" in name:
        write("load", name, content)


def calibrated(name, config, linear):
    """A small Llama whose linear weights are the lines that `linear` makes."""
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "silu",
        "max_position_embeddings": 64, "torch_dtype": "float16", "quantization_config": config,
    }
    layer = "model.layers.0."
    sides = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64), "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128),
    }
    lines = ["model.embed_tokens.weight|F16|96,64", "model.norm.weight|F16|64", "lm_head.weight|F16|96,64"]
    lines += [f"{layer}{norm}.weight|F16|64" for norm in ("input_layernorm", "post_attention_layernorm")]
    for module, (rows, columns) in sides.items():
        lines += linear(layer + module, rows, columns)
    checkpoint(name, b"a0", json.dumps(config, separators=(",", ":")).encode(), [text.encode() for text in lines])


def gptq(bits, group=32):
    def linear(name, rows, columns):
        groups = struct.pack(f"<{columns}i", *(column // group for column in range(columns))).hex()
        return [
            f"{name}.qweight|I32|{columns * bits // 32},{rows}",
            f"{name}.qzeros|I32|{columns // group},{rows * bits // 32}",
            f"{name}.scales|F16|{columns // group},{rows}",
            f"{name}.g_idx|I32|{columns}|{groups}",
        ]

    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": True}, linear


def awq(name, rows, columns, group=32):
    return [
        f"{name}.qweight|I32|{columns},{rows // 8}",
        f"{name}.qzeros|I32|{columns // group},{rows // 8}",
        f"{name}.scales|F16|{columns // group},{rows}",
    ]


def main():
    folders = sorted(glob.glob(f"{GOLDEN}/models/*") + glob.glob(f"{GOLDEN}/packed/*")) + sys.argv[1:]
    for number, folder in enumerate(folders):
        name, config = os.path.basename(folder), compact(f"{folder}/config.json")
        write("config", name, config)
        options = bytes([ord("a") + number % 18 if name[-2:] in ("16", "32") else ord("a"), ord("0")])
        checkpoint(name, options, config, [line(*tensor) for tensor in tensors(folder)])
    for bits in (2, 3, 4, 8):
        calibrated(f"gptq_{bits}bit", *gptq(bits))
    method = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    calibrated("awq", method, awq)

    # Zip archives as they are; of older files, the pickle of the tensors.
    for path in glob.glob(f"{GOLDEN}/torch/*.pt"):
        with open(path, "rb") as file:
            content = file.read()
        if not content.startswith(b"PK"):
            starts = [place.start() for place in re.finditer(rb"\x80\x02", content)]
            content = content[starts[3] : starts[4]]
        write("pickle", os.path.basename(path), content)

    for path in glob.glob(f"{GOLDEN}/models/llama*/*.index.json"):
        write("index", path.split("/")[-2], compact(path))


main()
