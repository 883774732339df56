#!/usr/bin/env python3
"""The bytes of bench/roofline.py are those that the emulator counts, within 10 %, kernel by kernel, on a tiny model."""
import argparse
import importlib.util
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOLERANCE = 0.10
CONTEXT = 200
CASES = (("bf16", 1), ("bf16", 16), ("int8", 16), ("int4", 1))

# What the roofline's kernels are in the emulator.
NAMES = {
    "embedding": ["EmbedKernel", "EmbedQuantizedKernel"],
    "norms": ["AddRmsNormKernel"],
    "products": ["cublasLtMatmul", "QuantizeRowsKernel", "QuantizedMatMulKernel"],
    "rope, kv": ["RopeKvKernel"],
    "attention": ["SplitKernel", "TailKernel"],
    "silu": ["SiluGateKernel"],
    "top-k": ["TopKKernel"],
}
PRODUCTS = {"qkv", "output", "gate, up", "down", "head"}


def load_roofline():
    spec = importlib.util.spec_from_file_location("roofline", ROOT / "bench/roofline.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["roofline"] = module
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", required=True, help="the binary count_traffic")
    args = parser.parse_args()
    roofline = load_roofline()
    model = roofline.TINY
    wrong = 0
    for weights, rows in CASES:
        lines = subprocess.run([args.count, weights, str(rows), str(CONTEXT)], check=True, capture_output=True, text=True).stdout
        counted = {name.split("<")[0]: int(count) for name, count in (line.split("\t") for line in lines.splitlines())}
        expected = {}
        for kernel in roofline.kernels(model, rows, 1, CONTEXT, weights):
            name = "products" if kernel.name in PRODUCTS else kernel.name
            expected[name] = expected.get(name, 0) + kernel.bytes
        for name, kernels in NAMES.items():
            got = sum(counted.get(kernel, 0) for kernel in kernels)
            off = got / expected[name] - 1
            bad = abs(off) > TOLERANCE
            wrong += bad
            print(f"{weights:5}{rows:4} rows  {name:12}{expected[name]:12.0f} computed{got:12} counted{off:+8.1%}{'  WRONG' if bad else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
