"""Ranks that torchrun starts: `firebox load` in every mode on two, three and four processes.

The ranges that the processes report are counted over the files, and digests of dense weights are computed from the files by
`xxhash`, which knows nothing of firebox. Takes PyTorch for torchrun alone.
"""

import json
import struct
import subprocess
import sys
from pathlib import Path

import xxhash
from common import ROOT, Run

MODEL = ROOT / "assets/tinyrust"
WORD = 4
# Bytes that each process reads: norms, and for layers the embedding, which is the head too, on both ends.
NORMS = 2 * 9 * 256
EMBEDDING = 2 * 2048 * 256
CASES = [
    ("replicate", "nf4", 2),
    ("layers", "nf4", 2),
    ("layers", "mlx:bits=4,group=64", 4),
    ("tensor", "nf4:block=32", 2),
    ("tensor", "fp8:e4m3,scale=32x32", 2),
    ("tensor", "none", 4),
    ("shard", "none", 2),
    ("shard", "none", 3),
    ("shard", "nf4", 4),
]


def launched(run, mode, quant, ranks):
    """The reports of all ranks."""
    logs = run.path(f"{mode}-{quant}-{ranks}")
    meeting = run.path("meeting")
    command = [
        Path(sys.executable).parent / "torchrun",
        *("--standalone", "--no-python", "--nproc-per-node", ranks, "--redirects", 3, "--log-dir", logs),
        *(run.program, "load", MODEL, "--quant", quant, "--parallel", mode, "--rendezvous", meeting, "--json"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [path.read_text() for path in logs.rglob("stderr.log")]
        raise RuntimeError(f"{done.stderr[-2000:]} {errors}")
    reports = [json.loads(path.read_text()) for path in logs.rglob("stdout.log")]
    return sorted(reports, key=lambda report: report["rank"])


def stored():
    """The files, and where each tensor is: file, first byte, end."""
    files, places = {}, {}
    for path in sorted(MODEL.glob("model*.safetensors")):
        data = files[path.name] = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, end = (8 + length + at for at in entry["data_offsets"])
            places[name] = (path.name, first, end)
    return files, places


def share(size, rank, ranks):
    """Bytes of a buffer that a rank has, by the words of the documentation."""
    each = -(-size // ranks)
    each += -each % WORD
    return min(rank * each, size), min((rank + 1) * each, size)


def main():
    run = Run(__doc__, ["torch", "xxhash"])
    files, places = stored()
    size = sum(end - first for _, first, end in places.values())
    for mode, quant, ranks in CASES:
        run.cases += 1
        problems = []
        try:
            reports = launched(run, mode, quant, ranks)
            said = [(report["rank"], report["world_size"], report["parallel"]) for report in reports]
            if said != [(rank, ranks, mode) for rank in range(ranks)]:
                problems.append(f"ranks {said}")
            counts = {name: bytearray(len(data)) for name, data in files.items()}
            for report in reports:
                for found in report["ranges"]:
                    for at in range(found["first"], found["last"] + 1):
                        counts[found["file"]][at] += 1
            read = [counts[file][first:end] for file, first, end in places.values()]
            if any(0 in part for part in read):
                problems.append("bytes that no rank has read")
            twice = sum(sum(part) for part in read) - size
            expected = {
                "replicate": (ranks - 1) * size,
                "layers": EMBEDDING,
                "tensor": (ranks - 1) * NORMS,
                "shard": 0,
            }[mode]
            if twice != expected:
                problems.append(f"{twice} bytes read again, not {expected}")
            for report in reports:
                lines = "".join("{name} {layout} {digest}\n".format(**weight) for weight in report["weights"])
                if xxhash.xxh3_128_hexdigest(lines.encode()) != report["digest"]:
                    problems.append(f"digest of rank {report['rank']}")
                if (mode, quant) != ("shard", "none"):
                    continue
                for weight in report["weights"]:
                    file, first, end = places[weight["name"]]
                    # What is no matrix is widened on the way.
                    if weight["layout"].startswith("bf16"):
                        start, stop = share(end - first, report["rank"], ranks)
                        digest = xxhash.xxh3_128_hexdigest(files[file][first + start : first + stop])
                        if digest != weight["digest"]:
                            problems.append(f"bytes of {weight['name']} on rank {report['rank']}")
        except Exception as error:  # A launcher that fails is a failure of the case.
            problems.append(f"{type(error).__name__}: {error}")
        run.failures += bool(problems)
        found = f"**{'; '.join(problems)[:600]}**" if problems else f"{size} bytes, digests"
        print(f"| {mode}, {quant}, {ranks} ranks | {found} |", flush=True)
    run.finish()


main()
