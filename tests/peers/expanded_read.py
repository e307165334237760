#!/usr/bin/env python3
"""transformers loads what `firebox convert --expand` writes: a model with new blocks that computes what it computed before.

    python tests/peers/expanded_read.py [--firebox PROGRAM] [--only GLOB]

Every golden model with one copy after all of its layers and with one after each, in f32: the logits of the expanded model in
transformers against those of the model in transformers, and against ours. Tensors of new blocks are read from the files: those that end
a half of a layer are zero, the others equal those of the layer before. The one family that cannot be
expanded is left out. A packed one (`quantize --quant nf4`) is loaded through bitsandbytes.
"""

import fnmatch
import json

from common import LOGITS, MODELS, Run, tensors

from with_torch import AutoModelForCausalLM, forward, load, np, torch

# Small embeddings by layer cannot be expanded.
REFUSED = {"gemma4_ple_bf16"}
# What adds to the features, in the words of the families.
ENDS = ("o_proj", "down_proj", "c_proj", "w2", "attention.dense", "dense_4h_to_h", "linear_attn.out_proj")


def text(config):
    return config.get("text_config", config)


def layers(config):
    fields = text(config)
    return fields.get("num_hidden_layers", fields.get("n_layer"))


def ends(name):
    return any(f".{end}." in name or name.endswith((f".{end}", f".{end}_bias")) for end in ENDS)


def new_blocks(folder, blocks):
    """How many tensors of new blocks are as they should be; an error names the first that is not."""
    found, checked = tensors(folder), 0
    for name, tensor in found.items():
        for block in blocks:
            for part in ("layers", "h"):
                if f".{part}.{block}." not in name or "vision" in name:
                    continue
                origin = found[name.replace(f".{part}.{block}.", f".{part}.{block - 1}.")]
                if ends(name):
                    assert not tensor.array.any(), f"{name} is not zero"
                elif not name.endswith("layer_scalar"):
                    assert np.array_equal(tensor.array, origin.array), f"{name} is no copy"
                checked += 1
    assert checked, "no tensor of a new block"
    return checked


def read(folder, count):
    """The model in f32. Layers after the last one predict further tokens, and transformers does not read them."""
    if "num_nextn_predict_layers" not in json.loads((folder / "config.json").read_text()):
        return load(folder, dtype=torch.float32)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(f"model.layers.{count}.")]
    if info["missing_keys"] or unexpected:
        raise RuntimeError(f"transformers does not load all: {info}")
    return model.eval()


def ids_of(model, vocabulary):
    return [(nth * 37 + 5) % vocabulary for nth in range(24)]


def main():
    run = Run(__doc__, ["transformers", "torch"])
    for model in sorted(MODELS.iterdir()):
        if model.name in REFUSED:
            continue
        config = json.loads((model / "config.json").read_text())
        base = None
        for blocks in sorted({1, layers(config)}):
            name = f"{model.name} blocks={blocks}"
            if not fnmatch.fnmatch(name, run.only):
                continue
            run.cases += 1
            try:
                out = run.path(f"{model.name}-{blocks}")
                run.firebox("convert", model, "--expand", f"blocks={blocks}", "--out", out)
                written = json.loads((out / "config.json").read_text())
                assert layers(written) == layers(config) + blocks
                checked = new_blocks(out, written["firebox_new_blocks"])
                ids = ids_of(model, text(config)["vocab_size"])
                if base is None:
                    base = forward(read(model, layers(config)), ids)
                theirs = forward(read(out, layers(written)), ids)
                run.firebox(
                    "logits", out, "--tokens", ",".join(map(str, ids)), "--dtype", "f32", "--out", run.path("logits.safetensors")
                )
                ours = tensors(run.path("logits.safetensors"))["logits"].f32()
                apart, same = (float(np.max(np.abs(side - theirs))) for side in (ours, base))
                failed = not (apart <= 10 * LOGITS and same <= 1e-5)
                result = f"{checked} tensors; {same:.1e} from the model, {apart:.1e} from ours"
            except Exception as error:  # noqa: BLE001
                failed, result = True, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            run.failures += failed
            print(f"| {name} | {f'**{result}**' if failed else result} |", flush=True)
    packed(run)
    run.finish()


def packed(run):
    """NF4 with new blocks that stay dense, through bitsandbytes."""
    name = "nf4 blocks=2,dense"
    if not fnmatch.fnmatch(name, run.only):
        return
    run.cases += 1
    model = MODELS / "llama_bf16_untied"
    ids = ids_of(model, 500)
    logits = []
    for options in [[], ["--expand", "blocks=2,dense"]]:
        out = run.path(f"packed-{len(options)}")
        run.firebox("quantize", model, "--quant", "nf4", *options, "--out", out)
        logits.append(forward(load(out, dtype=torch.float32), ids))
    apart = float(np.max(np.abs(logits[0] - logits[1])))
    failed = not apart <= 1e-5
    run.failures += failed
    result = f"{apart:.1e} from the packed model"
    print(f"| {name} | {f'**{result}**' if failed else result} |", flush=True)


if __name__ == "__main__":
    main()
