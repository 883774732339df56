#!/usr/bin/env bash
# Runs every test: installs what is missing, builds, runs ctest.
#
#   tests/run.sh            preset release
#   tests/run.sh asan       all tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   tests/run.sh tsan       the tests with threads in them under ThreadSanitizer
#   tests/run.sh tsan-servers, asan-servers   the integration tests under a sanitizer
#   tests/run.sh scalar     release, kernels forced to the scalar target (avx2, avx512 likewise)
#   tests/run.sh dev        preset dev
#   tests/run.sh faults     release, with servers that fail on demand: what comes of it
#   tests/run.sh simt       release, what runs on the emulator of CUDA, the losslessness matrix whole
# Further arguments go to ctest, e.g. tests/run.sh release -R gateway
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-release}
[ $# -gt 0 ] && shift
preset=$kind
arguments=()
case $kind in
  release | dev | asan) ;;
  faults) arguments=(-R integration_faults) ;;
  tsan) arguments=(-L threads) ;;
  tsan-servers | asan-servers) arguments=(-L integration) ;;
  scalar | avx2 | avx512) preset=release; export CLAMOR_CPU_TARGET=$kind ;;
  simt) preset=release; arguments=(-L simt); export CLAMOR_MATRIX=whole ;;
  -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "tests/run.sh: unknown kind '$kind'; one of release, dev, asan, tsan, asan-servers, tsan-servers, scalar, avx2, avx512, simt, faults" >&2; exit 2 ;;
esac

source deploy/packages.sh
ensure_packages --tests
python3 tests/deploy/tools.py || true  # says itself what will be skipped
cmake --preset "$preset" -DCLAMOR_TESTS=ON >/dev/null
cmake --build --preset "$preset"
status=0
ctest --preset "$preset" "${arguments[@]}" "$@" || status=$?
# Why each test failed, at the end, where it is found in a log of all of them: the lines that say so, or the
# last ones of a test that says nothing.
[ $status -eq 0 ] || LC_ALL=C awk '
  /^[0-9]+\/[0-9]+ Testing: / { name = $NF; cases = lines = after = 0 }
  /^\[[-0-9]+ [.:0-9]+\] \[/ { next }  # a server'"'"'s log
  /: Failure$/ { after = 4 }
  /^\[  FAILED  \] .* ms\)$|^(FAIL|ERROR): / { if (cases < 8) name_of[cases++] = $0 }
  /^[A-Za-z_.]*(Error|Exception)(:|$)|Sanitizer: |runtime error: / { after = 1 }
  after-- > 0 && lines < 10 { line[lines++] = $0 }
  /^<end of output>$/ { last = tail }
  { tail = tail_2 "\n    " tail_1 "\n    " $0; tail_2 = tail_1; tail_1 = $0 }
  /^Test Failed\.$/ {
    print "FAILED: " name
    for (i = 0; i < cases; ++i) print "    " name_of[i]
    for (i = 0; i < lines; ++i) print "    " line[i]
    if (cases + lines == 0) print "    " last
  }' "build/$preset/Testing/Temporary/LastTest.log" | cut -c1-200 | sed 30q || true
exit $status
