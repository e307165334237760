"""Turns a checkpoint that a library has quantized into a folder of `tests/golden/quantized`.

    python quantized.py CHECKPOINT BASE MADE OUT

The codes and scales of such a checkpoint are those that the tests quantize anew from the dense golden model, to the
bit. So they are kept as SHA-256 of each tensor, with name, type and shape; tensors that come out otherwise are kept
whole. MADE is the same checkpoint as `firebox quantize` makes it from BASE: it only says which tensors differ.
"""

import hashlib
import json
import shutil
import struct
import sys
from pathlib import Path


def tensors(folder):
    found = {}
    for path in sorted(Path(folder).glob("model*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        data = data[8 + length :]
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                found[name] = (entry["dtype"], entry["shape"], data[first:last])
    return found


def save(path, of):
    header, data = {}, b""
    # Widest elements first, so that each is aligned.
    for name, (dtype, shape, bytes_) in sorted(of.items(), key=lambda item: (-int(item[1][0][1:].split("_")[0]), item[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main(checkpoint, base, made, out):
    checkpoint, out = Path(checkpoint), Path(out)
    out.mkdir(parents=True)
    shutil.copy(checkpoint / "config.json", out)
    theirs, ours = tensors(checkpoint), tensors(made)
    listing = {
        name: {"dtype": dtype, "shape": shape, "sha256": hashlib.sha256(data).hexdigest()}
        for name, (dtype, shape, data) in sorted(theirs.items())
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(of, separators=(',', ':'))}" for name, of in listing.items())
    text = f'{{"base": {json.dumps(Path(base).name)}, "tensors": {{\n{lines}\n}}}}\n'
    (out / "tensors.json").write_text(text)
    rest = {name: tensor for name, tensor in theirs.items() if ours.get(name) != tensor}
    if rest:
        save(out / "rest.safetensors", rest)
    path = checkpoint / "logits.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    data = data[8 + length :]
    wanted = {
        name: (header[name]["dtype"], header[name]["shape"], data[slice(*header[name]["data_offsets"])])
        for name in ("input_ids", "logits_f32")
    }
    save(out / "logits.safetensors", wanted)


main(*sys.argv[1:])
