"""Makes `vectors/calibrated.safetensors`: layers as AutoGPTQ and AutoAWQ pack them, and the values they give back.

    python calibrated.py GPTQ AWQ OUT

GPTQ is the unpacked wheel auto_gptq 0.7.1, AWQ the unpacked source autoawq 0.2.9, OUT the file. Needs torch (made with
1.12.1, on the CPU), numpy and safetensors. Of the two libraries the files of the layers alone are loaded, since their
packages ask for much that has no part in packing: empty stand-ins take the places of transformers and accelerate, and
awq's packages are entered without their `__init__`. Two things that torch 1.12 lacks are given to awq: the choice of
a device, which is the CPU, and int64 for the int32 of the list that puts columns in order.

Run are `QuantLinear.pack` and `QuantLinear.forward` of `qlinear_cuda_old` (of `qlinear_cuda` where columns are in an
order), `WQLinear_GEMM.from_linear`, `dequantize_gemm`. `forward` multiplies by the weight that it has unpacked: that
weight is taken out of its call of `torch.matmul`. Codes, zero points, scales and orders are seeded random numbers. The
`gptq_v2` case is a packed layer of the first version with 1 added to each zero point, as GPTQModel changes it.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

SEED = 20261123
gptq, awq, out = map(Path, sys.argv[1:])


def stand_in(name, path=None, **fields):
    module = types.ModuleType(name)
    if path is not None:
        module.__path__ = [str(path)]
    vars(module).update(fields)
    sys.modules[name] = module
    return module


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


stand_in("transformers", pytorch_utils=types.SimpleNamespace(Conv1D=type("Conv1D", (), {})))
stand_in("accelerate")
stand_in("awq", awq / "awq")
stand_in("awq.utils", awq / "awq/utils")
stand_in("awq.modules", awq / "awq/modules")
stand_in("awq.modules.linear", awq / "awq/modules/linear")
layers = gptq / "auto_gptq/nn_modules/qlinear"
in_order = load("qlinear_cuda_old", layers / "qlinear_cuda_old.py")
any_order = load("qlinear_cuda", layers / "qlinear_cuda.py")
gemm = load("awq.modules.linear.gemm", awq / "awq/modules/linear/gemm.py")
assert not gemm.TRITON_AVAILABLE and gemm.awq_ext is None
# Asks torch for devices that 1.12 has not heard of.
gemm.get_best_device = lambda: "cpu"
# Takes columns by a list of int32, where 1.12 wants int64.
packing = sys.modules["awq.utils.packing_utils"]
packing.torch = types.SimpleNamespace(**{**vars(torch), "int32": torch.int64})


def given(random, bits, shape, group, dtype, order, least):
    """Codes, zero points from `least` up, scales, the list of groups, and the weight they stand for."""
    rows, cols = shape
    groups = cols // group
    top = 2**bits - 1
    codes = torch.from_numpy(random.integers(0, top + 1, (rows, cols)).astype(np.float32))
    zeros = torch.from_numpy(random.integers(least, top + 1, (rows, groups)).astype(np.float32))
    scales = random.uniform(0.001, 0.1, (rows, groups)).astype(np.float32)
    scales = torch.from_numpy(scales).to(dtype).float()
    g_idx = torch.from_numpy(np.arange(cols, dtype=np.int32) // group)
    if order:
        g_idx = g_idx[torch.from_numpy(random.permutation(cols))]
    weight = (codes - zeros[:, g_idx.long()]) * scales[:, g_idx.long()]
    linear = torch.nn.Linear(cols, rows, bias=False)
    linear.weight.data = weight.to(dtype)
    return linear, codes, zeros, scales, g_idx


def of_gptq(random, bits, shape, group_size, dtype=torch.float16, order=False, v2=False):
    rows, cols = shape
    group = cols if group_size == -1 else group_size
    # The first version stores zero points smaller by 1, and cannot store that of 0.
    linear, codes, zeros, scales, g_idx = given(random, bits, shape, group, dtype, order, 1)
    module = any_order if order else in_order
    layer = module.QuantLinear(bits, group_size, cols, rows, bias=False, weight_dtype=dtype)
    # `pack` takes 1 off the zero points it is given.
    layer.pack(linear, scales, zeros.clone(), g_idx)

    seen = []
    matmul = torch.matmul
    torch.matmul = lambda x, weight: (seen.append(weight), matmul(x.float(), weight.float()))[1]
    layer(torch.zeros(1, cols, dtype=dtype))
    torch.matmul = matmul
    (weight,) = seen
    assert weight.dtype == dtype
    exact = (codes - zeros[:, g_idx.long()]) * scales[:, g_idx.long()]
    assert torch.equal(weight.t(), exact.to(dtype)), "the library gives back what it was given"
    if v2:
        one_each = sum(1 << shift for shift in range(0, 32, bits))
        words = layer.qzeros.numpy().view(np.uint32) + np.uint32(one_each)
        layer.qzeros = torch.from_numpy(words.view(np.int32))
    return {
        "qweight": layer.qweight,
        "qzeros": layer.qzeros,
        "scales": layer.scales,
        "g_idx": layer.g_idx,
        "dequant": weight.t(),
    }


def of_awq(random, shape, group_size):
    group = shape[1] if group_size == -1 else group_size
    linear, codes, zeros, scales, g_idx = given(random, 4, shape, group, torch.float16, False, 0)
    transposed = [scales.t().contiguous(), zeros.t().contiguous()]
    layer = gemm.WQLinear_GEMM.from_linear(linear, 4, group, scales=transposed[0], zeros=transposed[1])
    weight = gemm.dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, group)
    exact = (codes - zeros[:, g_idx.long()]) * scales[:, g_idx.long()]
    assert torch.equal(weight.t(), exact.half()), "the library gives back what it was given"
    return {
        "qweight": layer.qweight,
        "qzeros": layer.qzeros,
        "scales": layer.scales,
        "dequant": weight.t(),
    }


GPTQ = [
    ("gptq_2bit", dict(bits=2, shape=(32, 96), group_size=32)),
    ("gptq_3bit", dict(bits=3, shape=(32, 96), group_size=32)),
    ("gptq_4bit", dict(bits=4, shape=(32, 96), group_size=32)),
    ("gptq_8bit", dict(bits=8, shape=(32, 64), group_size=32)),
    ("gptq_4bit_bf16", dict(bits=4, shape=(32, 64), group_size=16, dtype=torch.bfloat16)),
    ("gptq_8bit_f32", dict(bits=8, shape=(32, 32), group_size=16, dtype=torch.float32)),
    ("gptq_4bit_one_group", dict(bits=4, shape=(32, 96), group_size=-1)),
    ("gptq_4bit_v2", dict(bits=4, shape=(32, 96), group_size=32, v2=True)),
    ("gptq_2bit_order", dict(bits=2, shape=(32, 64), group_size=16, order=True)),
    ("gptq_3bit_order", dict(bits=3, shape=(32, 96), group_size=32, order=True)),
    ("gptq_4bit_order", dict(bits=4, shape=(32, 96), group_size=32, order=True)),
    ("gptq_8bit_order", dict(bits=8, shape=(32, 64), group_size=32, order=True)),
    ("gptq_4bit_one_group_order", dict(bits=4, shape=(32, 64), group_size=-1, order=True)),
]
AWQ = [
    ("awq_group32", dict(shape=(32, 96), group_size=32)),
    ("awq_group64", dict(shape=(32, 128), group_size=64)),
    ("awq_group128", dict(shape=(32, 256), group_size=128)),
    ("awq_one_group", dict(shape=(32, 96), group_size=-1)),
]

tensors, cases = {}, []
for number, (name, how) in enumerate(GPTQ + AWQ):
    random = np.random.default_rng([SEED, number])
    method = name.split("_")[0]
    made = (of_gptq if method == "gptq" else of_awq)(random, **how)
    case = {"name": name, "quant_method": method, "bits": how.get("bits", 4), "group_size": how["group_size"]}
    if method == "gptq":
        case["desc_act"] = how.get("order", False)
        case["checkpoint_format"] = "gptq_v2" if how.get("v2") else "gptq"
    cases.append(case)
    tensors.update({f"{name}/{field}": tensor.detach().contiguous() for field, tensor in made.items()})

doc = (
    "Linear layers as AutoGPTQ 0.7.1 and AutoAWQ 0.2.9 pack them (`qweight`, `qzeros`, `scales`, `g_idx` as in a "
    "checkpoint) and `dequant` [out, in], the weight that their own code unpacks from these on a CPU."
)
versions = {
    "auto_gptq": "0.7.1",
    "autoawq": "0.2.9",
    "torch": torch.__version__.split("+")[0],
    "numpy": np.__version__,
    "safetensors": safetensors.__version__,
}
save_file(tensors, out, {"cases": json.dumps(cases), "doc": doc, "versions": json.dumps(versions)})
