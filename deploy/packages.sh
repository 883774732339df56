# Sourced by deploy/quickstart.sh and tests/run.sh: installs the Debian packages that Clamor needs, if any is missing.
#
#   ensure_packages [--tests]     --tests: also what only the tests need

clamor_packages=(
  g++ cmake ninja-build ccache pkg-config
  libabsl-dev libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libc-ares-dev libre2-dev
  libhwy-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev libssl-dev libboost-dev
  librocksdb-dev libhiredis-dev prometheus-cpp-dev libcurl4-openssl-dev libspdlog-dev libcli11-dev
)
clamor_test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev python3-grpcio python3-grpc-tools python3-protobuf python3-yaml python3-venv
  redis-server prometheus strace openssl groff-base
)

ensure_packages() {
  local wanted=("${clamor_packages[@]}") missing=() package
  [ "${1:-}" = --tests ] && wanted+=("${clamor_test_packages[@]}")
  for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing Debian packages: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "not root and no sudo: install these packages, then run this again" >&2; return 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
    { echo "apt-get failed; its messages are above" >&2; return 1; }
}
