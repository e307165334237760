#!/usr/bin/env python3
"""How long a step of AdamW takes PyTorch and bitsandbytes on the CPU, for `cargo bench --bench optimizer`.

Needs torch and bitsandbytes; nothing of firebox:

    python3 tests/peers/optimizer_speed.py [MILLIONS]

The shapes are those of the benchmark. Times are those of the fastest of 15 steps.
"""

import sys
import time

import bitsandbytes
import torch

SHAPE = (2048, 1024)
ROUNDS = 15

count = -(-int(sys.argv[1] if len(sys.argv) > 1 else 10) * 1_000_000 // (SHAPE[0] * SHAPE[1]))
print(f"{count * SHAPE[0] * SHAPE[1]} values in {count} matrices, {torch.get_num_threads()} threads")
for name, make in {
    f"torch {torch.__version__} AdamW": torch.optim.AdamW,
    f"torch {torch.__version__} AdamW, fused": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, fused=True),
    f"bitsandbytes {bitsandbytes.__version__} AdamW8bit": bitsandbytes.optim.AdamW8bit,
}.items():
    parameters = [torch.nn.Parameter(torch.randn(SHAPE) * 0.01) for _ in range(count)]
    gradients = [torch.randn(SHAPE) * 0.01 for _ in range(count)]
    optimizer = make(parameters, lr=1e-4)
    seconds = []
    for _ in range(ROUNDS):
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient.clone()
        started = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    print(f"{name}: {min(seconds) * 1e3:.1f} ms")
