#!/usr/bin/env python3
"""What a step of the CUDA back end should cost at best: bytes and operations of each kernel, and step times by rows.

    bench/roofline.py [--context 1024] [--sequences 1] [--weights bf16]
    bench/roofline.py --measured FILE --gpu "NVIDIA H100 80GB HBM3" [--context 1024]     FILE: what cuda_bench printed

Computed, not measured: what a day with a GPU must confirm (tests/gpu/run.sh). tests/gpu/roofline_test.py holds the bytes
against those that the emulator of tests/simt counts. A kernel takes the longer of its bytes at 85 % of the memory's
rate and its products at 60 % of the tensor cores' dense bf16 rate, and each launch in a graph 1.3 us; products run in
blocks of 64 rows, with int8 and int4 weights in as many as there are; models are taken as if they fit. The cache is bf16,
activations between products fp32, as in model/cuda.
"""
import argparse
from dataclasses import dataclass, replace

BANDWIDTH_SHARE, TENSOR_SHARE, LAUNCH_SECONDS = 0.85, 0.60, 1.3e-6
ROW_BLOCK, TILE_QUERIES, SPLIT, TAIL = 64, 64, 128, 63
BF16, FP32, TOP_K = 2, 4, 10
BITS = {"bf16": 16, "int8": 8, "int4": 4}
ROWS = (1, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Model:
    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def q(self):
        return self.heads * self.head_dim

    @property
    def kv(self):
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Gpu:
    name: str
    bytes_per_second: float
    flops: float  # dense bf16


@dataclass(frozen=True)
class Kernel:
    name: str
    bytes: float
    flops: float  # by tensor cores; the others are bound by bytes
    launches: int


MODELS = (  # config.json of Qwen2.5-0.5B, Llama-3.1-8B and Llama-3.1-70B
    Model("0.5B", 24, 896, 4864, 14, 2, 64, 151936),
    Model("8B", 32, 4096, 14336, 32, 8, 128, 128256),
    Model("70B", 80, 8192, 28672, 64, 8, 128, 128256),
)
TINY = Model("tiny", 2, 64, 160, 4, 2, 16, 640)  # tests/testdata/tiny-llama
GPUS = (  # vendor's data sheets
    Gpu("A100-80", 2.04e12, 312e12),
    Gpu("H100 SXM", 3.35e12, 989e12),
    Gpu("H200", 4.8e12, 989e12),
    Gpu("B200", 8.0e12, 2250e12),
)


def weight_bytes(bits):
    """Of one weight, and its part of the scale."""
    return bits / 8 + (BF16 / 32 if bits < 16 else 0)


def product(name, rows, n, k, times, bits):
    """y = x w^T: weights once; x bf16 and y fp32 of whole blocks. With fewer bits, groups of 32 have a scale of 16, and x
    is first quantised, with a scale of 32 bits."""
    if bits < 16:
        quantised = rows * (k + k / 32 * FP32)
        moved = n * k * weight_bytes(bits) + rows * k * BF16 + 2 * quantised + rows * n * FP32
        return Kernel(name, times * moved, times * 2.0 * rows * n * k, 2 * times)
    padded = -(-rows // ROW_BLOCK) * ROW_BLOCK
    return Kernel(name, times * (n * k * BF16 + padded * (k * BF16 + n * FP32)), times * 2.0 * padded * n * k, times)


def norms(m, rows):
    """Each but the first adds what the product before it gave; the last is of the rows whose logits are wanted."""
    added, kept = 2 * m.layers, 2
    moved = rows * m.hidden * (added * (3 * FP32 + BF16) + kept * (FP32 + BF16))
    return Kernel("norms", moved + (added + kept) * m.hidden * FP32, 0, added + kept)


def attention(m, rows, sequences, context):
    """Splits of 128 keys and the rest, up to 63 + 127 keys and the rows' own: once, since all rows and heads that share
    them run at about the same time; queries twice; the parts of each split written and read."""
    group = m.heads // m.kv_heads
    tail_start = max(0, context - TAIL) // SPLIT * SPLIT
    tiles = sequences * -(-(-(-rows // sequences) * group) // TILE_QUERIES)
    in_splits = sequences * tail_start * 2 * m.kv * BF16
    parts = 2 * rows * m.heads * (tail_start // SPLIT) * (m.head_dim + 2) * FP32
    tail = (sequences * (context - tail_start) + rows) * 2 * m.kv * BF16
    queries = rows * m.q * BF16 * (3 if tail_start else 2)
    flops = 4.0 * tiles * TILE_QUERIES * tail_start * m.kv
    return Kernel("attention", m.layers * (in_splits + parts + tail + queries), m.layers * flops, 2 * m.layers)


def kernels(m, rows, sequences, context, weights="bf16"):
    bits = BITS[weights]
    finer = max(bits, 8)
    qkv = m.q + 2 * m.kv
    return [
        Kernel("embedding", rows * m.hidden * (weight_bytes(finer) + FP32), 0, 1),
        norms(m, rows),
        product("qkv", rows, qkv, m.hidden, m.layers, bits),
        Kernel("rope, kv", m.layers * rows * (qkv * (FP32 + BF16) + m.head_dim * FP32), 0, m.layers),
        attention(m, rows, sequences, context),
        product("output", rows, m.hidden, m.q, m.layers, finer),
        product("gate, up", rows, 2 * m.intermediate, m.hidden, m.layers, bits),
        Kernel("silu", m.layers * rows * m.intermediate * (2 * FP32 + BF16), 0, m.layers),
        product("down", rows, m.hidden, m.intermediate, m.layers, bits),
        product("head", rows, m.vocab, m.hidden, 1, finer),
        Kernel("top-k", rows * (m.vocab + 2 * TOP_K + 1) * FP32, 0, 1),
    ]


def seconds(kernel, gpu):
    return (max(kernel.bytes / (BANDWIDTH_SHARE * gpu.bytes_per_second), kernel.flops / (TENSOR_SHARE * gpu.flops))
            + kernel.launches * LAUNCH_SECONDS)


def norm_kernel(m, rows):
    return Kernel("norms", rows * m.hidden * (3 * FP32 + BF16) + m.hidden * FP32, 0, 1)


def one_kernel(m, name, rows, context, weights):
    """A single launch of what `kernels` has for a whole step."""
    if name == "norms":
        return norm_kernel(m, rows)
    weights = weights if weights in BITS else "bf16"
    trees = -(-rows // ROW_BLOCK)
    # With int4, output products are int8: measured are both.
    bits = {"output": BITS[weights]}.get(name)
    if bits is not None:
        return product(name, rows, m.hidden, m.q, 1, bits)
    return next(k for k in kernels(replace(m, layers=1), rows, trees, context, weights) if k.name == name)


def print_kernels(lines, gpu, context):
    by_name = {m.name: m for m in (*MODELS, TINY)}
    print(f"{'shape':6}{'weights':8}{'kernel':12}{'rows':>5}{'us':>10}{'GB/s':>9}{'roof':>7}{'TFLOP/s':>9}{'roof':>7}")
    for shape, weights, name, rows, seconds in lines:
        kernel = one_kernel(by_name[shape], name, int(rows), context, weights)
        row = f"{shape:6}{weights:8}{name:12}{rows:>5}"
        if seconds == "-":
            print(row + f"{'-':>10}{'-':>9}{'-':>7}{'-':>9}{'-':>7}")
            continue
        took = float(seconds)
        rate, flops = kernel.bytes / took, kernel.flops / took
        shares = (f"{rate / gpu.bytes_per_second:7.0%}", f"{flops / gpu.flops:7.0%}") if gpu else (f"{'?':>7}",) * 2
        print(row + f"{took * 1e6:10.1f}{rate / 1e9:9.0f}{shares[0]}{flops / 1e12:9.1f}{shares[1]}")


def print_steps(lines):
    first = {}
    print(f"\n{'weights':8}{'rows':>5}{'T(rows), ms':>13}{'of T(1)':>9}")
    for weights, rows, seconds in lines:
        if seconds == "-":
            print(f"{weights:8}{rows:>5}{'-':>13}{'-':>9}")
            continue
        took = float(seconds)
        ratio = took / first.setdefault(weights, took)
        print(f"{weights:8}{rows:>5}{took * 1e3:13.3f}{ratio:8.2f}x")


def print_answers(lines):
    plain = {}
    print(f"\n{'weights':8}{'nodes':>6}{'tokens per forward':>20}{'tokens/s':>10}{'of plain':>10}")
    for weights, nodes, tokens, forwards, seconds in lines:
        row = f"{weights:8}{nodes:>6}{int(tokens) / int(forwards):20.2f}"
        if seconds == "-":
            print(row + f"{'-':>10}{'-':>10}")
            continue
        rate = int(tokens) / float(seconds)
        print(row + f"{rate:10.1f}{rate / plain.setdefault(weights, rate):9.2f}x")


def print_measured(path, gpu_name, context):
    gpu = next((g for g in GPUS if g.name.split()[0].split("-")[0] in gpu_name), None)
    lines = [line.split("\t") for line in open(path).read().splitlines()]
    print(f"{gpu_name or 'no GPU named'}: " + (f"roof {gpu.bytes_per_second / 1e12} TB/s, {gpu.flops / 1e12:.0f} TFLOP/s in bf16" if gpu else "its roof is not known"))
    print_kernels([line[1:] for line in lines if line[0] == "kernel"], gpu, context)
    print_steps([line[1:] for line in lines if line[0] == "step"])
    print_answers([line[1:] for line in lines if line[0] == "answers"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=1024, help="tokens before the rows")
    parser.add_argument("--sequences", type=int, default=1, help="that share the rows")
    parser.add_argument("--weights", choices=BITS, default="bf16")
    parser.add_argument("--measured", help="file with the lines of cuda_bench")
    parser.add_argument("--gpu", default="", help="its name, as nvidia-smi has it")
    options = parser.parse_args()
    if options.context < 1 or options.sequences < 1:
        parser.error("--context and --sequences must be at least 1")
    if options.measured:
        return print_measured(options.measured, options.gpu, options.context)
    for m in MODELS:
        print(f"\n{m.name}, {options.weights}, context {options.context}, {options.sequences} sequences: MB and Gflop of a step")
        few, many = (kernels(m, rows, options.sequences, options.context, options.weights) for rows in (1, 64))
        print(f"{'kernel':12}{'launches':>9}{'MB, 1 row':>12}{'Gflop':>10}{'MB, 64':>12}{'Gflop':>10}")
        for a, b in zip(few, many):
            print(f"{a.name:12}{a.launches:9}{a.bytes / 1e6:12.1f}{a.flops / 1e9:10.1f}{b.bytes / 1e6:12.1f}{b.flops / 1e9:10.1f}")
        print(f"{'T(rows)':12}" + "".join(f"{rows:>9}" for rows in ROWS))
        for gpu in GPUS:
            times = [sum(seconds(k, gpu) for k in kernels(m, rows, min(rows, options.sequences), options.context, options.weights))
                     for rows in ROWS]
            print(f"{gpu.name:12}{times[0] * 1e3:6.2f} ms" + "".join(f"{t / times[0]:8.2f}x" for t in times[1:]))


if __name__ == "__main__":
    main()
