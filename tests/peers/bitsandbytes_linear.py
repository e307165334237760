#!/usr/bin/env python3
"""bitsandbytes' NF4 kernels at the shapes of `cargo bench -p firebox-kernels --bench device`, on the same card.

Needs an NVIDIA GPU, PyTorch with CUDA (2.6 or newer) and bitsandbytes 0.48 or newer; nothing of firebox:

    python3 tests/peers/bitsandbytes_linear.py [--json FILE]

Times are CUDA events around a queue that never is empty, each the median of 9 samples; weights are taken in
turn from 256 MiB of copies, so that no cache holds them. The benchmark measures in the same way and prints the
same columns. With eight inputs bitsandbytes gives the weight back and multiplies; that is what is timed.
"""

import argparse
import json
import statistics
import time

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as F

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096)]
MORE_THAN_CACHES = 256 << 20
SAMPLES = 9
DTYPE = torch.bfloat16


def measure(run):
    """Seconds of a call on the device, and as a program sees it."""
    for k in range(3):
        run(k)
    torch.cuda.synchronize()
    started = time.perf_counter()
    run(0)
    torch.cuda.synchronize()
    calls = max(1, min(50, round(2e-3 / (time.perf_counter() - started))))
    device, program = [], []
    for _ in range(SAMPLES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Work for longer than it takes to queue the calls: 20 ms at 2 GHz.
        torch.cuda._sleep(40_000_000)
        start.record()
        for k in range(calls):
            run(k)
        end.record()
        end.synchronize()
        device.append(start.elapsed_time(end) / 1e3 / calls)
        started = time.perf_counter()
        for k in range(calls):
            run(k)
        torch.cuda.synchronize()
        program.append((time.perf_counter() - started) / calls)
    return statistics.median(device), statistics.median(program)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", help="the figures for programs too")
    options = options.parse_args()

    torch.manual_seed(7)
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / measure(lambda _: target.copy_(source))[0]
    del source, target
    print(f"\n## bitsandbytes {bnb.__version__}, PyTorch {torch.__version__}: {torch.cuda.get_device_name()}\n")
    print(f"Copies by the driver: {copy / 1e9:.1f} GB/s, read and written.\n")
    print("| operation | format | shape | MB | on the device | a call | GB/s | of a copy | GFLOP/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []

    def row(operation, name, shape, moved, flops, run):
        device, call = measure(run)
        rate = moved / device
        gflops = f"{flops / device / 1e9:.0f}" if flops else ""
        print(
            f"| {operation} | {name} | {shape[0]} x {shape[1]} | {moved / 1e6:.1f} | {device * 1e6:.1f} µs "
            f"| {call * 1e6:.1f} µs | {rate / 1e9:.1f} | {100 * rate / copy:.0f} % | {gflops} |",
            flush=True,
        )
        rows.append(
            {
                "operation": operation, "format": name, "shape": shape, "bytes": moved, "flops": flops,
                "device_seconds": device, "call_seconds": call, "bytes_per_second": rate,
            }
        )

    for shape in SHAPES:
        o, i = shape
        n = o * i
        weight = torch.randn(o, i, dtype=DTYPE, device="cuda")
        for name, nested in [("nf4", False), ("nf4 nested", True)]:
            def quantize(_):
                return F.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=nested)

            groups = n // 64
            scales = groups + 4 * -(-groups // 256) if nested else 4 * groups
            packed_bytes = n // 2 + scales
            row("quantize bf16", name, shape, 2 * n + packed_bytes, 0, quantize)

            copies = -(-MORE_THAN_CACHES // packed_bytes)
            weights = [quantize(k) for k in range(copies)]
            back = F.dequantize_4bit(*weights[0])
            error = (back.float() - weight.float()).norm() / weight.float().norm()
            assert error < 0.12, f"{name} {shape}: off by {error}"
            row(
                "dequantize to bf16", name, shape, packed_bytes + 2 * n, 0,
                lambda k: F.dequantize_4bit(*weights[k % copies]),
            )
            for m in [1, 8]:
                x = torch.randn(m, i, dtype=DTYPE, device="cuda")

                def linear(k):
                    packed, state = weights[k % copies]
                    if m == 1:
                        return F.gemv_4bit(x, packed, state=state)
                    return bnb.matmul_4bit(x, packed.t(), quant_state=state)

                expected = x.float() @ back.float().t()
                error = (linear(0).float().reshape(m, o) - expected).norm() / expected.norm()
                assert error < 0.02, f"{name} {shape}, {m}: off by {error}"
                moved = packed_bytes + 2 * m * (i + o)
                row(f"linear, {m} of bf16", name, shape, moved, 2 * m * n, linear)
            del weights, back
        del weight
        torch.cuda.empty_cache()

    if options.json:
        device = torch.cuda.get_device_name()
        figures = {"target": "bitsandbytes", "device": device, "copy_bytes_per_second": copy, "operations": rows}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([figures], file, indent=2)


if __name__ == "__main__":
    main()
