#!/usr/bin/env bash
# What only a machine with a GPU can show: kernels and whole models on it, as tests/simt has them emulated.
#
#   tests/gpu/run.sh [BUILD_FOLDER]     build/release unless given
#
# Ends with 77 where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build/release}
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
  echo "tests/gpu/run.sh: there is no GPU here, nothing was tested"
  exit 77
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
if [ ! -f "$build/CMakeCache.txt" ]; then
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG" >/dev/null
fi
tests=(cuda_gpu_test device_gpu_test device_matrix_gpu_test)
cmake --build "$build" --target "${tests[@]}"
failed=0
for test in "${tests[@]}"; do
  "$build/bin/$test" || failed=1
done
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/bin/device_gpu_test" \
      --gtest_filter='*LogitsAreNearTheGoldens/llama' || failed=1
  done
fi
exit $failed
