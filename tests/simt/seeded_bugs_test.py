#!/usr/bin/env python3
"""Each line below breaks one line of a shipping kernel. The emulator must say so, naming kernel and place.

A broken file is compiled as CMake compiles the kernels and preloaded into the kernels' own test, whose filter says which
of its tests runs the broken code. nvcc, where there is one, accepts every one of them: nothing else would notice.
"""
import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@dataclasses.dataclass
class Bug:
    name: str
    unit: str       # what is compiled, in kernels/cuda
    old: str        # stands in one line of `file`, the first that has it
    new: str
    tests: str      # gtest filter
    message: str    # regular expression
    at: str         # part of the line that is {at} in the message: the place it must name
    file: str = ""  # what is changed, if not the unit itself


BUGS = [
    Bug("missing barrier", "rmsnorm.cu", "  __syncthreads();", "", "*/AddRmsNorm",
        r"AddRmsNormKernel, block .*reads 4 bytes of shared memory at {at}, which (nothing has written|.*no barrier between \(a race\))",
        "    for (int i = thread % 16;"),
    Bug("divergent barrier", "rmsnorm.cu", "if (thread == 0) scale[0] =", "__syncthreads(); if (thread == 0) scale[0] =", "*/AddRmsNorm",
        r"AddRmsNormKernel.*reaches __syncthreads at .*{at}.*\(a divergent barrier\)", "__syncthreads(); if (thread == 0)"),
    Bug("out of bounds", "rmsnorm.cu", "i < a.n; i += 16", "i <= a.n; i += 16", "*/AddRmsNorm",
        r"AddRmsNormKernel.*reads 4 bytes of shared memory at {at}, out of the bounds of every shared variable",
        "    for (int i = thread % 16;"),
    Bug("out of bounds of a buffer", "embedding.cu", "i < n; i += 8 * kThreads", "i < n + 8; i += 8 * kThreads", "*/Embed",
        r"EmbedKernel.*16 bytes of device memory at kernels/cuda/embedding.cu:\d+, (at offset \d+, out of the bounds of|which .*\(a race\))",
        ""),
    Bug("host touches device memory", "step_io.cu", "  used_ = true;", "  used_ = true; device_[0] = std::byte{0};", "StepTest*",
        r"the host, at {at}, touches device memory: the 144 bytes allocated at kernels/cuda/step_io.cu:\d+", "  used_ = true;"),
    Bug("wrong mask", "rmsnorm.cu", "__shfl_xor_sync(~0u,", "__shfl_xor_sync(0xffffu,", "*/AddRmsNorm",
        r"AddRmsNormKernel.*is not named by the mask of its own __shfl_sync at {at} with mask 0000ffff",
        "  for (int half = 8;", file="numerics.h"),
    Bug("race between streams", "step_io.cu", "  Check(cudaStreamWaitEvent(copies_, written_)", "  if (bytes_ == 0) Check(cudaStreamWaitEvent(copies_, written_)",
        "StepTest*", r"(cudaMemcpyAsync at {at}|SiluGateKernel).*\(a race between streams\)", "  Check(cudaMemcpyAsync(host_[latest_]"),
    Bug("forgotten wait", "step_io.cu", "  Check(cudaEventSynchronize(copied_)", "  if (bytes_ == 0) Check(cudaEventSynchronize(copied_)",
        "StepTest*", r"the host, at .*, touches pinned memory, .* which cudaMemcpyAsync at {at}, still writes", "  Check(cudaMemcpyAsync(host_[latest_]"),
    Bug("misaligned vector", "rmsnorm.cu", "gpu::LoadVector<float4>(a.weight + i)", "gpu::LoadVector<float4>(a.weight + i + 1)",
        "*/AddRmsNorm", r"AddRmsNormKernel.*reads 16 bytes of memory at {at}, misaligned", "    const float4 v = gpu::LoadVector<float4>(row + i)"),
    Bug("wrong leading dimension", "matmul.cu", "CUDA_R_16BF, k, rows, k)", "CUDA_R_16BF, k, rows, n)", "MatMulTest*",
        r"cublasLtMatmulAlgoGetHeuristic at {at}.*matrix B .*leading dimension below its rows", "  CheckLt(cublasLtMatmulAlgoGetHeuristic("),
    Bug("allocation in capture", "silu_gate.cu", "if (rows == 0) return;",
        'void* scratch = nullptr; Check(cudaMallocAsync(&scratch, 256, stream), "scratch");', "StepTest*",
        r"cudaMallocAsync at {at} inside the capture of a graph, begun at \S*kernels/cuda/step_graphs.cu:\d+", "  void* scratch"),
    Bug("stale inputs in replay", "step_io.cu", "if (slot.used) Check(", "if (bytes_ == 0) Check(", "StepTest*",
        r"the host, at .*, touches pinned memory, .* which cudaMemcpyAsync at {at}, still reads", "  Check(cudaMemcpyAsync(to, slot.host"),
    Bug("early exit", "rmsnorm.cu", "  for (int i = 4 * thread;", "  if (4 * thread >= a.n) return; for (int i = 4 * thread;", "*/AddRmsNorm",
        r"AddRmsNormKernel.*(reaches __syncthreads at {at} after other threads of its block ended|ends while other threads of its block wait at {at})", "  __syncthreads();"),
    Bug("copy not waited for", "tree_attention.cu", "    gpu::CopyWait<1>();", "", "*CudaTreeAttention*IsNear*/0",
        r"SplitKernel.*reads 16 bytes of shared memory at \S*kernels/cuda/attention_tile.h:\d+, which the copy of .* may not have filled yet", ""),
    Bug("missing barrier of a warp", "tree_attention.cu", "  __syncwarp();", "", "*CudaTreeAttention*IsNear*/0",
        r"TailKernel.*reads 4 bytes of shared memory at kernels/cuda/tree_attention.cu:\d+, which (nothing has written|.*no barrier between)", ""),
    # This one is no misuse: the bits differ, which the kernels' own test must see.
    Bug("unpinned workspace", "matmul.cu", "workspace_, workspace_bytes_, stream)", "workspace_, static_cast<size_t>(rows), stream)", "MatMulTest*", r"FAILED", ""),
]


def broken(bug):
    """The text of the changed file, and the line that must be named."""
    path = ROOT / "kernels/cuda" / (bug.file or bug.unit)
    lines = path.read_text().splitlines(keepends=True)
    where = [i for i, line in enumerate(lines) if bug.old in line]
    assert where, f"{bug.name}: {path} has no '{bug.old}'"
    lines[where[0]] = lines[where[0]].replace(bug.old, bug.new)
    named = [i for i, line in enumerate(lines) if bug.at in line]
    assert named, f"{bug.name}: no line has '{bug.at}'"
    return "".join(lines), f"kernels/cuda/{bug.file or bug.unit}:{named[0] + 1}"


def run(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **more)


def test_output(test, library, tests):
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    return run([test, f"--gtest_filter={tests}"], env=environment, timeout=300)


def check(bug, folder, args):
    source = folder / "kernels/cuda" / bug.unit
    source.parent.mkdir(parents=True)
    text, at = broken(bug)
    source.write_text((ROOT / "kernels/cuda" / bug.unit).read_text())
    (source.parent / (bug.file or bug.unit)).write_text(text)
    library = folder / "broken.so"
    options = [o.replace(f"{ROOT}=", f"{folder}=") for o in shlex.split(args.options)]
    compiled = run([args.cxx, *options, "-shared", f"-I{folder}", f"-I{ROOT}", f"-I{ROOT}/tests/simt/include", str(source), "-o", str(library)])
    if compiled.returncode != 0:
        return f"does not compile:\n{compiled.stdout}"
    if args.nvcc:
        accepted = run([args.nvcc, "-std=c++20", "-arch=sm_80", "-fmad=false", "--expt-relaxed-constexpr", "-c", f"-I{folder}", f"-I{ROOT}",
                        str(source), "-o", "/dev/null"])
        if accepted.returncode != 0:
            return f"nvcc refuses it:\n{accepted.stdout}"
    result = test_output(args.test, library, bug.tests)
    if result.returncode == 0:
        return "goes unnoticed"
    pattern = bug.message.replace("{at}", re.escape(at))
    if not re.search(pattern, result.stdout):
        return f"is not described by '{pattern}':\n{result.stdout[-2000:]}"
    return ""


def check_in_folder(bug, args):
    with tempfile.TemporaryDirectory() as folder:
        return check(bug, pathlib.Path(folder), args)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cxx", required=True)
    parser.add_argument("--options", required=True, help="those of CLAMOR_SIMT_OPTIONS")
    parser.add_argument("--nvcc", default="")
    parser.add_argument("--test", required=True, help="the kernels' test for the emulator")
    parser.add_argument("--only", default="", help="part of a bug's name")
    args = parser.parse_args()

    bugs = [b for b in BUGS if args.only in b.name]
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for bug, wrong in zip(bugs, pool.map(lambda b: check_in_folder(b, args), bugs)):
            print(f"{'MISSED' if wrong else 'caught'}: {bug.name}" + (f" {wrong}" if wrong else ""), flush=True)
            failures += bool(wrong)
    # What is not broken is clean.
    clean = run([args.test, "--gtest_filter=" + ":".join(sorted({b.tests for b in bugs}))])
    if clean.returncode != 0:
        print(f"without a bug:\n{clean.stdout[-2000:]}")
    return 1 if failures or clean.returncode or not bugs else 0


if __name__ == "__main__":
    sys.exit(main())
