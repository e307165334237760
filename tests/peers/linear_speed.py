#!/usr/bin/env python3
"""bitsandbytes' NF4 on the CPU at the shapes of `cargo bench -p firebox-kernels --bench host`, on the same machine.

Needs PyTorch and bitsandbytes 0.50 or newer; nothing of firebox:

    python3 tests/peers/linear_speed.py [--json FILE]

Figures are the median and the best of 25 samples of at least 4 ms, with one PyTorch thread and with all, and for one
thread the time that it was on a processor; weights are taken in turn from 256 MiB of copies, so that no cache holds
them: as in the benchmark. The product is what `Linear4bit` calls in
the forward pass on a processor with AVX512-BF16: its weight repacked, inputs and scales in bf16. The time of
repacking, which happens once, is not in it. Other processors unpack the weight and multiply, and that is timed there.
"""

import argparse
import json
import os
import statistics
import time

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as F

UNPACKED = (4096, 11008)
SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336), (4096, 11008)]
MORE_THAN_CACHES = 256 << 20
SAMPLES, SAMPLE = 25, 0.004


def measure(run):
    """Seconds of a call: the median, the best, and those that this thread was on a processor."""
    count = 0

    def some(calls):
        nonlocal count
        started = time.perf_counter()
        for _ in range(calls):
            run(count)
            count += 1
        return (time.perf_counter() - started) / calls

    some(2)
    calls = max(1, min(1000, round(SAMPLE / some(1))))
    started = time.thread_time()
    seconds = [some(calls) for _ in range(SAMPLES)]
    own = (time.thread_time() - started) / (calls * SAMPLES)
    return statistics.median(seconds), min(seconds), own


def quantized(shape, nested):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(7)) * 0.02
    codes, state = F.quantize_4bit(
        weight.to(torch.bfloat16), blocksize=64, quant_type="nf4", compress_statistics=nested
    )
    return weight, codes, state


def copies(codes):
    return [codes.clone() for _ in range(-(-MORE_THAN_CACHES // codes.nbytes))]


def unpacked(shape, nested, dtype):
    """A run that gives the weight back, and the packed bytes it reads."""
    _, codes, state = quantized(shape, nested)
    state.dtype = dtype
    # Nested scales are a hundredth of it.
    packed = codes.nbytes + state.absmax.nbytes
    if nested:
        packed += state.state2.absmax.nbytes
    codes = copies(codes)
    return lambda k: F.dequantize_4bit(codes[k % len(codes)], state), packed


def product(shape, m):
    """A run that multiplies `m` rows, and the packed bytes it reads."""
    weight, codes, state = quantized(shape, False)
    packed = codes.nbytes + state.absmax.nbytes
    x = torch.randn((m, shape[1]), generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    fused = F.has_avx512bf16()
    if fused:
        codes, state = F._convert_weight_packed_for_cpu(codes, state)
        codes = copies(codes)

        def run(k):
            return F.gemv_4bit(x, codes[k % len(codes)], state=state)

    else:
        codes = [c.t() for c in copies(codes)]

        def run(k):
            return bnb.matmul_4bit(x, codes[k % len(codes)], quant_state=state)

    right = x.float() @ weight.to(torch.bfloat16).float().t()
    # NF4 itself is off by a tenth of an output's size: this finds another layout, not another rounding.
    off = (run(0).float() - right).square().mean().sqrt() / right.square().mean().sqrt()
    assert off < 0.2, f"bitsandbytes' product is off by {off}"
    return run, packed


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", metavar="FILE", help="the figures for programs too")
    options = options.parse_args()
    print(f"bitsandbytes {bnb.__version__}, PyTorch {torch.__version__}, AVX512-BF16: {F.has_avx512bf16()}\n")
    print("| case | threads | ms | best | own | GB/s packed |")
    print("|---|---|---|---|---|---|")
    cases = [
        (f"unpack nf4{':nested' * nested} into {name}", unpacked, (UNPACKED, nested, dtype))
        for nested in (False, True)
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16))
    ]
    cases += [(f"1 x nf4 {o}x{i}", product, ((o, i), 1)) for o, i in SHAPES]
    cases += [(f"{m} x nf4 4096x4096", product, ((4096, 4096), m)) for m in (2, 8, 512)]
    figures = []
    for name, make, arguments in cases:
        run, packed = make(*arguments)
        for threads in sorted({1, os.cpu_count()}):
            torch.set_num_threads(threads)
            median, best, own = measure(run)
            # What other threads do is in no thread's own time.
            alone = own if threads == 1 else None
            rate = packed / (alone or best) / 1e9
            shown = f"{1e3 * alone:.3f}" if alone else ""
            print(f"| {name} | {threads} | {1e3 * median:.3f} | {1e3 * best:.3f} | {shown} | {rate:.2f} |", flush=True)
            figures.append({"case": name, "threads": threads, "seconds": median, "best": best, "own": alone})
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
