#!/usr/bin/env bash
# What only a machine with a GPU can show: kernels and whole models on it, as tests/simt has them emulated, then how fast
# they are beside bench/roofline.py. Ten minutes at most, the build not counted.
#
#   tests/gpu/run.sh [BUILD_FOLDER]               build/release unless given; MODEL=dir takes another model than the demo's
#   tests/gpu/run.sh --emulator [BUILD_FOLDER]    the same against the emulator: few tests, since ctest has them all; no
#                                                 times; the binaries must be there
#
# Ends with 77 where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
emulator=
if [ "${1:-}" = --emulator ]; then
  emulator=1
  shift
fi
build=${1:-build/release}
model=${MODEL:-deploy/demo-model}
gpu= shapes=(0.5B 8B) context=1024
tests=(cuda_gpu_test device_gpu_test training_gpu_test device_matrix_gpu_test)
bench=cuda_bench
filters=('*' '*' '*' '*')
if [ -n "$emulator" ]; then
  gpu=emulated shapes=(tiny) context=200 model=tests/testdata/tiny-llama
  tests=(cuda_simt_test device_simt_test training_simt_test)
  filters=('MatMulTest.*:StepTest.*' '*LogitsAreNearTheGoldens/llama' '*TenSteps*')
  bench=cuda_bench_emulated
else
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo "tests/gpu/run.sh: there is no GPU here, nothing was tested"
    exit 77
  fi
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
  if [ ! -f "$build/CMakeCache.txt" ]; then
    cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG" >/dev/null
  fi
  cmake --build "$build" --target "${tests[@]}" "$bench"
fi

failed=0
for i in "${!tests[@]}"; do
  echo "== ${tests[$i]}"
  "$build/bin/${tests[$i]}" --gtest_brief=1 --gtest_filter="${filters[$i]}" || failed=1
done
if [ -z "$emulator" ] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer, $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/bin/device_gpu_test" \
      --gtest_filter='*LogitsAreNearTheGoldens/llama' || failed=1
  done
fi

echo "== how fast"
measured=$(mktemp)
trap 'rm -f "$measured"' EXIT
for shape in "${shapes[@]}"; do
  "$build/bin/$bench" kernels "$shape" >>"$measured" || failed=1
done
for weights in bf16 int8 int4; do
  "$build/bin/$bench" steps "$model" $weights >>"$measured" || failed=1
  "$build/bin/$bench" answers "$model" $weights >>"$measured" || failed=1
done
python3 bench/roofline.py --measured "$measured" --gpu "$gpu" --context $context || failed=1
[ $failed = 0 ] && echo "all of it passed" || echo "something failed, see above"
exit $failed
