#!/usr/bin/env python3
"""What a step of the CUDA back end should cost at best: bytes and operations of each kernel, and step times by rows.

    bench/roofline.py [--context 1024] [--sequences 1]

Computed, not measured: what a day with a GPU must confirm. A kernel takes the longer of its bytes at 85 % of the memory's
rate and its products at 60 % of the tensor cores' dense bf16 rate, and each launch in a graph 1.3 us; products run in
blocks of 64 rows; models are taken as if they fit. Weights and cache are bf16, activations between products fp32, as in model/cuda.
"""
import argparse
from dataclasses import dataclass

BANDWIDTH_SHARE, TENSOR_SHARE, LAUNCH_SECONDS = 0.85, 0.60, 1.3e-6
ROW_BLOCK, TILE_QUERIES, SPLIT, TAIL = 64, 64, 128, 63
BF16, FP32 = 2, 4
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
GPUS = (  # vendor's data sheets
    Gpu("A100-80", 2.04e12, 312e12),
    Gpu("H100 SXM", 3.35e12, 989e12),
    Gpu("B200", 8.0e12, 2250e12),
)


def product(name, rows, n, k, times):
    """y = x w^T: weights once; x bf16 and y fp32 of whole blocks."""
    padded = -(-rows // ROW_BLOCK) * ROW_BLOCK
    return Kernel(name, times * (n * k * BF16 + padded * (k * BF16 + n * FP32)), times * 2.0 * padded * n * k, times)


def attention(m, rows, sequences, context):
    """Splits of 128 keys, read once for each tile of 64 queries; the rest, up to 63 + 127 keys, once for each row and
    head; the parts of each split written and read."""
    group = m.heads // m.kv_heads
    tail_start = max(0, context - TAIL) // SPLIT * SPLIT
    tiles = sequences * -(-(-(-rows // sequences) * group) // TILE_QUERIES)
    in_splits = tiles * tail_start * 2 * m.kv * BF16
    parts = 2 * rows * m.heads * (tail_start // SPLIT) * (m.head_dim + 2) * FP32
    # The heads that share a key find it in the cache of the GPU.
    tail = rows * (context - tail_start) * 2 * m.kv * BF16
    flops = 4.0 * tiles * TILE_QUERIES * tail_start * m.kv
    return Kernel("attention", m.layers * (in_splits + parts + tail + rows * 2 * m.q * BF16), m.layers * flops,
                  2 * m.layers)


def kernels(m, rows, sequences, context):
    qkv = m.q + 2 * m.kv
    norms = 2 * m.layers + 2
    return [
        Kernel("embedding", rows * m.hidden * (BF16 + FP32), 0, 1),
        Kernel("norms", norms * rows * m.hidden * (3 * FP32 + BF16), 0, norms),
        product("qkv", rows, qkv, m.hidden, m.layers),
        Kernel("rope, kv", m.layers * rows * qkv * (FP32 + BF16), 0, m.layers),
        attention(m, rows, sequences, context),
        product("output", rows, m.hidden, m.q, m.layers),
        product("gate, up", rows, 2 * m.intermediate, m.hidden, m.layers),
        Kernel("silu", m.layers * rows * m.intermediate * (2 * FP32 + BF16), 0, m.layers),
        product("down", rows, m.hidden, m.intermediate, m.layers),
        product("head", rows, m.vocab, m.hidden, 1),
        Kernel("top-k", 2 * rows * m.vocab * FP32, 0, 1),
    ]


def seconds(kernel, gpu):
    return (max(kernel.bytes / (BANDWIDTH_SHARE * gpu.bytes_per_second), kernel.flops / (TENSOR_SHARE * gpu.flops))
            + kernel.launches * LAUNCH_SECONDS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=1024, help="tokens before the rows")
    parser.add_argument("--sequences", type=int, default=1, help="that share the rows")
    options = parser.parse_args()
    if options.context < 1 or options.sequences < 1:
        parser.error("--context and --sequences must be at least 1")
    for m in MODELS:
        print(f"\n{m.name}, context {options.context}, {options.sequences} sequences: MB and Gflop of a step")
        few, many = (kernels(m, rows, options.sequences, options.context) for rows in (1, 64))
        print(f"{'kernel':12}{'launches':>9}{'MB, 1 row':>12}{'Gflop':>10}{'MB, 64':>12}{'Gflop':>10}")
        for a, b in zip(few, many):
            print(f"{a.name:12}{a.launches:9}{a.bytes / 1e6:12.1f}{a.flops / 1e9:10.1f}{b.bytes / 1e6:12.1f}{b.flops / 1e9:10.1f}")
        print(f"{'T(rows)':12}" + "".join(f"{rows:>9}" for rows in ROWS))
        for gpu in GPUS:
            times = [sum(seconds(k, gpu) for k in kernels(m, rows, min(rows, options.sequences), options.context))
                     for rows in ROWS]
            print(f"{gpu.name:12}{times[0] * 1e3:6.2f} ms" + "".join(f"{t / times[0]:8.2f}x" for t in times[1:]))


if __name__ == "__main__":
    main()
