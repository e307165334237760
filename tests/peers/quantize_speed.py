#!/usr/bin/env python3
"""How fast the Python libraries choose codes on the CPU, for `cargo bench -p firebox-kernels --bench host -- pack`.

Needs torch, bitsandbytes, mlx with mlx-cpu, hqq and compressed-tensors; nothing of firebox:

    python3 tests/peers/quantize_speed.py [--only WORD]

The weight is that of the benchmark: 4096 x 11008 in bf16, about normal. One thread each; rates are source bytes over the
seconds that the process was on a core, and over seconds of the clock, medians of five (of one for what takes long). A
library that is missing is left out.
"""

import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import torch

SHAPE = (4096, 11008)
SAMPLES = 5


def measure(run, slow):
    """Seconds on a core and by the clock."""
    core, clock = [], []
    if not slow:
        run()
    for _ in range(1 if slow else SAMPLES):
        started = time.process_time(), time.perf_counter()
        run()
        core.append(time.process_time() - started[0])
        clock.append(time.perf_counter() - started[1])
    return statistics.median(core), statistics.median(clock)


def bitsandbytes_cases(weight):
    import bitsandbytes
    from bitsandbytes import functional as F

    name = f"bitsandbytes {bitsandbytes.__version__}"
    for kind in ["nf4", "fp4"]:
        for nested in [False, True]:
            yield f"{name}, {kind}{' nested' if nested else ''}", False, lambda kind=kind, nested=nested: (
                F.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=nested)
            )
    yield f"{name}, int8", False, lambda: F.int8_vectorwise_quant(weight.half())


def compressed_tensors_cases(weight):
    import compressed_tensors
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    name = f"compressed-tensors {compressed_tensors.__version__}"

    def case(strategy, bits, kind, group=None):
        args = QuantizationArgs(num_bits=bits, type=kind, strategy=strategy, group_size=group, symmetric=True)
        dtype = torch.float8_e4m3fn if kind == "float" else torch.int8

        def run():
            if strategy == "tensor":
                ends = weight.amin(), weight.amax()
            elif strategy == "channel":
                ends = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
            else:
                grouped = weight.unflatten(1, (-1, group))
                ends = grouped.amin(2), grouped.amax(2)
            scale, zero = calculate_qparams(*ends, args)
            return quantize(weight, scale, zero, args, dtype=dtype)

        return run

    yield f"{name}, fp8 tensor", False, case("tensor", 8, "float")
    yield f"{name}, fp8 channel", False, case("channel", 8, "float")
    yield f"{name}, int 8 bits, channel, unpacked", False, case("channel", 8, "int")
    yield f"{name}, int 4 bits, group 128, unpacked", False, case("group", 4, "int", 128)


def torch_cases(weight):
    yield f"torch {torch.__version__}, bare cast to e4m3", False, lambda: weight.to(torch.float8_e4m3fn)


def mlx_cases(weight):
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    source = mx.array(weight.float().numpy()).astype(mx.bfloat16)
    mx.eval(source)
    name = f"mlx {mx.__version__}"
    for bits in [3, 4, 8]:
        yield f"{name}, affine {bits} bits", False, lambda bits=bits: mx.eval(
            *mx.quantize(source, group_size=64, bits=bits)
        )
    for mode, group in [("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)]:
        bits = 8 if mode == "mxfp8" else 4
        yield f"{name}, {mode}", False, lambda mode=mode, group=group, bits=bits: mx.eval(
            *mx.quantize(source, group_size=group, bits=bits, mode=mode)
        )


def hqq_cases(weight):
    from importlib.metadata import version

    from hqq.core.quantize import Quantizer

    for axis in [1, 0]:
        yield f"hqq {version('hqq')}, 4 bits, axis {axis}", True, lambda axis=axis: Quantizer.quantize(
            weight, nbits=4, group_size=64, axis=axis, round_zero=True, optimize=True, device="cpu",
            compute_dtype=torch.bfloat16,
        )


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="cases whose names contain this word")
    options = options.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(7)
    weight = (torch.randn(SHAPE) * 0.02).to(torch.bfloat16)
    read = 2 * weight.numel()
    print("| case | seconds on a core | GB/s | seconds | GB/s |")
    print("|---|---|---|---|---|")
    for cases in [torch_cases, bitsandbytes_cases, compressed_tensors_cases, mlx_cases, hqq_cases]:
        try:
            for name, slow, run in cases(weight):
                if options.only in name:
                    core, clock = measure(run, slow)
                    rates = f"| {core:.3f} | {read / core / 1e9:.3f} | {clock:.3f} | {read / clock / 1e9:.3f} |"
                    print(f"| {name} {rates}", flush=True)
        except ImportError as error:
            print(f"| {cases.__name__} | {error} | | | |", flush=True)


if __name__ == "__main__":
    main()
