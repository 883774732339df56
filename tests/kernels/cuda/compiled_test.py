#!/usr/bin/env python3
"""What nvcc made of kernels/cuda, and what its sources must keep to.

Of every kernel: no spills on any architecture, the number of barriers and the least number of blocks that fit on a
multiprocessor as declared below, __launch_bounds__. Of those on tensor cores: the instructions they are written for.
Of the sources: only gpu.h asks which compiler runs. Without nvcc (no --logs), the sources alone.
"""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
CUDA = ROOT / "kernels/cuda"
ARCHITECTURES = {"80": 64, "90": 64, "100": 64}  # resident warps of a multiprocessor
REGISTERS = 65536
SHARED = {"80": 163 << 10, "90": 227 << 10, "100": 227 << 10}

# Kernel: barriers, threads of a block, least blocks of a multiprocessor by registers and static shared memory.
KERNELS = {
    "AddBiasKernel": (0, 128, 16),
    "EmbedKernel": (0, 128, 12),
    "EmbedQuantizedKernel": (0, 128, 12),
    "JoinColumnsKernel": (0, 128, 12),
    "QuantizeWeightsKernel": (0, 128, 8),
    "QuantizeRowsKernel": (0, 128, 12),
    "QuantizedMatMulKernel": (1, 128, 2),
    "AddRmsNormKernel": (1, 128, 10),
    "RopeKvKernel": (0, 128, 10),
    "SiluGateKernel": (0, 256, 8),
    "SplitKernel": (1, 128, 2),
    "TailKernel": (0, 128, 8),
    "TopKKernel": (1, 512, 2),
    "SampleKernel": (1, 512, 2),
    "AcceptKernel": (0, 32, 16),
    "CommitKvKernel": (1, 128, 6),
    "EditLogitsKernel": (1, 128, 10),
    "CausalAttentionKernel": (1, 128, 2),
    "OutputProductKernel": (0, 128, 16),
    "KeyGradientKernel": (1, 128, 2),
    "QueryGradientKernel": (1, 128, 2),
    "CrossEntropyKernel": (1, 512, 2),
    "SiluGateBackwardKernel": (0, 128, 12),
    "RmsNormBackwardKernel": (1, 128, 8),
    "RopeBackwardKernel": (0, 128, 8),
    "SumRowsKernel": (0, 128, 12),
    "AddPartialSumsKernel": (0, 128, 12),
    "EmbeddingGradientKernel": (0, 128, 12),
    "SumSquaresKernel": (0, 256, 6),
    "AddInOrderKernel": (1, 256, 6),
    "AdamWKernel": (1, 256, 5),
}
INSTRUCTIONS = {name: ["mma.sync", "ldmatrix", "cp.async"]
                for name in ("tree_attention.cu", "causal_attention.cu", "causal_attention_backward.cu", "quantized_matmul.cu")}

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers, used (\d+) barriers(.*)")


def kernel_of(mangled):
    return max((k for k in KERNELS if re.search(rf"\d{k}", mangled)), key=len, default=None)


def blocks_that_fit(architecture, threads, registers, shared):
    warps = threads // 32
    by_registers = REGISTERS // (warps * -(-registers * 32 // 256) * 256)
    by_shared = SHARED[architecture] // (shared + 1024)
    return min(by_registers, by_shared, ARCHITECTURES[architecture] // warps)


def check_log(log, seen):
    kernel = architecture = None
    for line in log.read_text().splitlines():
        if match := ENTRY.search(line):
            kernel, architecture = kernel_of(match[1]), match[2]
            if kernel is None:
                yield f"{log.name}: {match[1]} is not in KERNELS"
        elif kernel and (match := SPILLS.search(line)):
            if match[1] != "0" or match[2] != "0":
                yield f"{kernel} on sm_{architecture} spills: {line.strip()}"
        elif kernel and (match := USED.search(line)):
            barriers, threads, least = KERNELS[kernel]
            shared = re.search(r"(\d+) bytes smem", match[3])
            fit = blocks_that_fit(architecture, threads, int(match[1]), int(shared[1]) if shared else 0)
            if int(match[2]) != barriers:
                yield f"{kernel} on sm_{architecture} has {match[2]} barriers, declared are {barriers}"
            if fit < least:
                yield f"{kernel} on sm_{architecture}: {fit} blocks fit with {match[1]} registers, declared are {least}"
            seen.add((kernel, architecture))
            kernel = None


def check_sources():
    for path in sorted(CUDA.iterdir()):
        if path.suffix not in (".h", ".cu"):
            continue
        text = path.read_text()
        if path.name != "gpu.h" and re.search(r"__CUDACC__|__CUDA_ARCH__|__NVCC__|\basm\b|<<<", text):
            yield f"{path.name} asks which compiler runs, or holds what only one of them knows"
        for word in re.findall(r"__global__ void\s+(\w+)\(", text):
            if word != "__launch_bounds__":
                yield f"{path.name}: {word} has no __launch_bounds__"


def check_ptx(nvcc, options):
    for name, wanted in INSTRUCTIONS.items():
        ptx = subprocess.run([nvcc, *options, "-arch=sm_80", "-ptx", str(CUDA / name), "-o", "-"], capture_output=True, text=True)
        if ptx.returncode != 0:
            yield f"{name}: {ptx.stderr}"
        yield from (f"the PTX of {name} has no {word}" for word in wanted if word not in ptx.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", default="", help="folder of what ptxas said, *.ptxas")
    parser.add_argument("--nvcc", default="")
    args = parser.parse_args()
    errors = list(check_sources())
    if args.logs:
        seen = set()
        for log in sorted(pathlib.Path(args.logs).glob("*.ptxas")):
            errors += check_log(log, seen)
        errors += [f"{k} was not compiled for sm_{a}" for k in KERNELS for a in ARCHITECTURES if (k, a) not in seen]
        errors += check_ptx(args.nvcc, ["-std=c++20", f"-I{ROOT}", "-fmad=false", "--expt-relaxed-constexpr"])
    print("\n".join(errors) or (f"{len(KERNELS)} kernels as declared" if args.logs else "the sources only: there is no nvcc"))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
