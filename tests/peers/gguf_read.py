#!/usr/bin/env python3
"""llama.cpp loads the GGUF files that firebox writes, and its quantizer writes the same blocks.

    python tests/peers/gguf_read.py [--firebox PROGRAM] [--only GLOB]

Each golden model is made one of f32 first: llama.cpp rounds activations to the type of the weights that they are multiplied
by, so that only f32 says whether names, rows and keys are right. Five things are compared:

* the logits of llama.cpp with ours of the same weights and, where the model is the golden one, with those of transformers
  (`logits.safetensors`), in f32, within 1e-4;
* every tensor of `firebox quantize --to gguf` with that of llama.cpp's own `llama_model_quantize` of the file of f32 (`pure` and
  mixtures, no importance matrix): type, shape, bytes;
* the logits of llama.cpp for a quantized file with ours: it quantizes activations, we do not;
* the logits of llama.cpp for a model in parts and without a tokenizer with those for one file;
* the ids of a text with those of firebox's own tokenizer, where the model has one.
"""

import ctypes
import json
import re
import shutil
import struct

import gguf
import llama_cpp
import numpy as np

from common import LOGITS, MODELS, Run, tensors

# What quantized activations were seen to change, of logits up to 25.
ACTIVATIONS = 0.5
# llama.cpp looks GELU up in a table of f16.
GELU = 2e-2

# The models; fields that llama.cpp has no key for, with the values that it computes with; tensors that are then not there.
FAMILIES = [
    ("arcee_bf16", {"attention_bias": False, "mlp_bias": False}, ["bias$"]),
    ("cohere_bf16", {"use_qk_norm": False, "attention_bias": False}, ["[qk]_norm", "bias$"]),
    ("deepseek_v3_bf16", {}, []),
    ("gemma2_bf16", {"query_pre_attn_scalar": 16}, []),
    ("gemma3_bf16", {"query_pre_attn_scalar": 16}, []),
    ("gemma4_moe_bf16", {}, []),
    ("glm4_bf16", {}, []),
    ("glm4_moe_bf16", {}, []),
    ("gpt_neox_f16", {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5}}, []),
    ("gpt2_f32", {}, []),
    # llama.cpp rounds the bounds of YaRN, which changes everything where a head has eight pairs.
    ("gpt_oss_bf16", {"rope_parameters": {"rope_theta": 150000.0, "rope_type": "default"}}, []),
    ("granite_bf16", {}, []),
    ("llama4_bf16", {"attention_chunk_size": 8192, "floor_scale": 8192}, []),
    ("llama_bf16_untied", {}, []),
    ("llama_f16_tied_bias", {}, []),
    ("llama_f32_tied", {}, []),
    ("llama_rope_linear", {}, []),
    ("llama_rope_yarn", {}, []),
    ("ministral3_bf16", {"sliding_window": None}, []),
    ("mistral_bf16", {"sliding_window": None}, []),
    ("mixtral_bf16", {}, []),
    ("olmo2_bf16", {}, []),
    ("olmo3_bf16", {}, []),
    ("phi3_longrope", {}, []),
    ("qwen2_bf16_tied", {}, []),
    ("qwen3_bf16", {}, []),
    ("starcoder2_bf16", {"sliding_window": None}, []),
]
# Values of the delta rule in the golden models, of which llama.cpp needs as many as there are features of a key.
VALUE_HEADS, VALUE, KEY = 4, 16, 12


def of_values(rows):
    """The rows of value heads, each cut to the length of a key."""
    return rows.reshape(VALUE_HEADS, VALUE, *rows.shape[1:])[:, :KEY].reshape(VALUE_HEADS * KEY, *rows.shape[1:])


def with_equal_heads(key, values):
    """A golden model with the delta rule whose values are as long as its keys."""
    both = 4 * KEY
    if key.endswith(("in_proj_qkv.weight", "linear_attn.conv1d.weight")):
        values = np.concatenate([values[:both], of_values(values[both:])])
    elif key.endswith("in_proj_z.weight"):
        values = of_values(values)
    elif key.endswith("linear_attn.norm.weight"):
        values = values[:KEY]
    elif key.endswith("linear_attn.out_proj.weight"):
        values = of_values(values.T).T
    elif key.endswith("in_proj_qkvz.weight"):
        heads = values.reshape(2, -1, values.shape[1])
        keys, rest = heads[:, : 2 * KEY], heads[:, 2 * KEY :].reshape(2, 4, VALUE, -1)[:, :, :KEY]
        values = np.concatenate([keys, rest.reshape(2, 4 * KEY, -1)], axis=1).reshape(-1, values.shape[1])
    return {key: values}


def with_experts(source, others):
    """A golden model whose `others` have the experts of the layer `source`, since llama.cpp has some in every layer."""

    def change(key, values):
        of = "model.layers.{}.mlp."
        if key.startswith(of.format(source)):
            return {key.replace(of.format(source), of.format(layer)): values for layer in [source, *others]}
        return {} if any(key.startswith(of.format(layer)) for layer in others) else {key: values}

    return change


def with_square_heads(key, values):
    """A GLM whose heads divide the features of the model: 8 of 12 in each."""
    cut = lambda rows: rows.reshape(-1, 12, *rows.shape[1:])[:, :8].reshape(-1, *rows.shape[1:])
    if any(part in key for part in ("q_proj", "k_proj", "v_proj")):
        values = cut(values)
    elif "o_proj" in key:
        values = cut(values.T).T
    return {key: values}


def with_lenders(key, values):
    """A Gemma 4 whose last layers with keys are one with a window and a full one, in this order."""
    swap = {"1": "2", "2": "1"}
    return {re.sub(r"layers\.([12])\.", lambda layer: f"layers.{swap[layer[1]]}.", key): values}


LENDERS = {
    "layer_types": [f"{kind}_attention" for kind in ("sliding", "sliding", "full", "sliding", "full")],
    "per_layer_config": {"2": {"head_dim": 24}, "4": {"head_dim": 24}},
}
# Models that llama.cpp has as others alone.
CHANGED = [
    ("gemma4_ple_bf16", LENDERS, with_lenders),
    ("glm_bf16", {"head_dim": 8}, with_square_heads),
    ("qwen2_moe_bf16", {"decoder_sparse_step": 1}, with_experts(1, [0, 2])),
    ("qwen3_5_bf16", {"linear_value_head_dim": KEY}, with_equal_heads),
    ("qwen3_5_moe_bf16", {"linear_value_head_dim": KEY}, with_equal_heads),
    ("qwen3_moe_bf16", {"mlp_only_layers": []}, with_experts(0, [1])),
    ("qwen3_next_bf16", {"linear_value_head_dim": KEY}, with_equal_heads),
]
# llama.cpp's number of the file type, for each of our words.
TYPES = {
    "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q8_0": 7, "q2_k": 10, "q3_k": 11, "q4_k": 14, "q5_k": 16, "q6_k": 18,
    "iq4_nl": 25,
}
# And of the mixtures.
MIXTURES = {
    "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q4_0:mixture": 2,
    "q5_1:mixture": 9, "q8_0:mixture": 7, "q2_k:mixture": 10, "q6_k:mixture": 18, "iq4_nl:mixture": 25,
}


def as_f32(run, name, fields, gone=(), change=lambda key, values: {key: values}):
    """A golden model whose tensors are f32, in one file, but for those that are gone or changed."""
    model, folder = MODELS / name, run.path(f"f32-{name}")
    if folder.exists():
        return folder
    folder.mkdir()
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for key, tensor in tensors(model).items():
        if any(re.search(end, key) for end in gone):
            continue
        for key, values in change(key, tensor.f32().astype("<f4")).items():
            end = len(data) + values.nbytes
            header[key] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), end]}
            data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = json.loads((model / "config.json").read_text()) | {"torch_dtype": "float32", "dtype": "float32"} | fields
    (folder / "config.json").write_text(json.dumps(config))
    for file in model.glob("*token*.json"):
        shutil.copy(file, folder)
    return folder


def theirs(file, ids):
    """The logits of llama.cpp, its cache in f32."""
    model = llama_cpp.Llama(
        str(file), n_ctx=max(64, len(ids)), logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=2, flash_attn=False,
    )
    model.eval(ids)
    return np.array(model.scores[: len(ids)], dtype=np.float32)


def ours(run, file, ids, name):
    out = run.path(f"{name}.logits")
    run.firebox("logits", file, "--tokens", ",".join(map(str, ids)), "--dtype", "f32", "--out", out)
    return tensors(out)["logits"].f32()


def apart(case, check, found, expected, limit):
    case.compared = True
    if found.shape != expected.shape:
        return case.check(f"{check}: shape {found.shape}, not {expected.shape}", failed=True)
    off = float(np.max(np.abs(found - expected)))
    case.check(f"{check}: {off:.1e} apart, {limit:g} allowed", failed=not off <= limit)


def blocks(file):
    reader = gguf.GGUFReader(str(file))
    return {t.name: (t.tensor_type.name, list(map(int, t.shape)), t.data.tobytes()) for t in reader.tensors}


def by_llama_quantize(source, target, kind, pure):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = kind, pure, 2
    done = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if done:
        raise RuntimeError(f"llama_model_quantize: {done}")


def family(run, name, fields, gone=(), **change):
    case = run.case(as_f32(run, name, fields, gone, **change), "none")
    if case is None:
        return
    with case:
        made = case.folder / "made"
        run.firebox("quantize", case.model, "--quant", "none", "--to", "gguf", "--out", made)
        limit = GELU if any(family in name for family in ("gemma", "gpt2", "neox", "starcoder")) else LOGITS
        if "ple" in name:
            # Small embeddings pass through one more in each layer.
            limit *= 2
        ids = list(range(3, 27))
        found = theirs(made / "model.gguf", ids)
        apart(case, "logits of firebox", found, ours(run, case.model, ids, f"f{run.cases}"), limit)
        if fields:
            return
        golden = tensors(MODELS / name / "logits.safetensors")
        ids, expected = golden["input_ids"].array, golden["logits_f32"].f32()
        ids, expected = (ids, expected) if ids.ndim == 1 else (ids[0], expected[0])
        apart(case, "logits of transformers", theirs(made / "model.gguf", ids.tolist()), expected, limit)


def quantized(run, name, spec):
    # As llama.cpp's `pure`, which packs the embedding and the head too; a mixture chooses for them.
    tied = json.loads((MODELS / name / "config.json").read_text()).get("tie_word_embeddings")
    pure = spec in TYPES
    rules = [f"role:embedding={spec}"] + ([] if tied else [f"role:head={spec}"]) if pure else []
    arguments = ["--to", "gguf"] + [word for rule in rules for word in ("--rule", rule)]
    case = run.case(as_f32(run, name, {}), spec, *arguments)
    if case is None:
        return
    with case:
        made, plain = case.folder / "made", case.folder / "plain"
        run.firebox("quantize", case.model, "--quant", spec, *arguments, "--out", made)
        run.firebox("quantize", case.model, "--quant", "none", "--to", "gguf", "--out", plain)
        kind = TYPES[spec] if pure else MIXTURES[spec]
        by_llama_quantize(plain / "model.gguf", case.folder / "theirs.gguf", kind, pure)
        found, expected = blocks(made / "model.gguf"), blocks(case.folder / "theirs.gguf")
        case.compared = True
        wrong = [
            f"{key}: {found.get(key, ('missing',))[:2]}, not {value[:2]}" for key, value in expected.items() if found.get(key) != value
        ] + [f"{key}: more" for key in found.keys() - expected.keys()]
        kinds = sorted({kind for kind, *_ in found.values()})
        case.check(", ".join(wrong) if wrong else f"{len(found)} tensors of llama-quantize ({', '.join(kinds)}) equal", bool(wrong))
        if not pure or "num_local_experts" in case.json(case.model):
            # Quantized activations choose other experts; mixtures have the blocks of the others.
            return
        ids = list(range(3, 35))
        file = made / "model.gguf"
        apart(case, "logits", theirs(file, ids), ours(run, file, ids, f"q{run.cases}"), ACTIVATIONS)


def in_parts(run, name):
    source = as_f32(run, name, {})
    case = run.case(source, "none", "--to", "gguf", "--shard-size", "1MB")
    if case is None:
        return
    with case:
        bare = case.folder / "bare"
        shutil.copytree(source, bare, ignore=shutil.ignore_patterns("*token*"))
        made, whole = case.folder / "made", case.folder / "whole"
        run.firebox("quantize", bare, "--quant", "none", "--to", "gguf", "--shard-size", "1MB", "--out", made)
        run.firebox("quantize", case.model, "--quant", "none", "--to", "gguf", "--out", whole)
        ids = list(range(3, 27))
        first = sorted(made.glob("*.gguf"))[0]
        apart(case, f"logits of {first.name} and its parts", theirs(first, ids), theirs(whole / "model.gguf", ids), 0.0)


def tokenizer(run, name, texts):
    case = run.case(as_f32(run, name, {}), "q8_0", "--to", "gguf")
    if case is None:
        return
    with case:
        made = case.folder / "made"
        run.firebox("quantize", case.model, "--quant", "q8_0", "--to", "gguf", "--out", made)
        from tokenizers import Tokenizer as Fast

        fast = Fast.from_file(str(case.model / "tokenizer.json"))
        model = llama_cpp.Llama(str(made / "model.gguf"), vocab_only=True, verbose=False)
        case.compared = True
        wrong = [
            text
            for text in texts
            if model.tokenize(text.encode(), add_bos=False, special=True) != fast.encode(text, add_special_tokens=False).ids
        ]
        case.check(f"differ: {wrong}" if wrong else f"{len(texts)} texts have the ids of tokenizers", bool(wrong))


def main():
    run = Run(__doc__, ["llama-cpp-python", "gguf"])
    for name, fields, gone in FAMILIES:
        family(run, name, fields, gone)
    for name, fields, change in CHANGED:
        family(run, name, fields, change=change)
    for spec in TYPES:
        quantized(run, "llama_bf16_untied", spec)
    for name, spec in [("llama_f32_tied", "q6_k"), ("gpt_oss_bf16", "q8_0")]:
        quantized(run, name, spec)
    for spec in MIXTURES:
        for name in ("llama_bf16_untied", "llama_f32_tied", "gpt_oss_bf16"):
            quantized(run, name, spec)
    in_parts(run, "llama_bf16_untied")
    texts = ["hello world", "The 12345 fox's  den\n\n  jumps", "naïve café — 北京 🙂", "x = {'a': 1}\t# tabs", "don't WE'LL I'd"]
    tokenizer(run, "llama_bf16_untied", texts)
    run.finish()


if __name__ == "__main__":
    main()
