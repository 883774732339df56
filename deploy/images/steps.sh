#!/usr/bin/env bash
# The steps of both Dockerfiles, so that they can be run and tested without Docker.
#
#   steps.sh compile OUT     where the sources are, in a root of its own: builds, and puts into OUT all that an image gets
#   steps.sh assemble OUT [PACKAGE...]
#                            in the image's root: packages, files, list of contents, and a user who may write nothing
set -euo pipefail
cd "$(dirname "$0")/../.."

# collect BUILD OUT: binaries without symbols, the demo model, and the names of the packages whose libraries they load.
collect() {
  local build=$1 out=$2 library
  mkdir -p "$out/bin" "$out/share"
  for name in clamor-gateway clamor-worker clamor-retrieval clamor libclamor_cuda.so; do
    [ -e "$build/bin/$name" ] && strip -o "$out/bin/$name" "$build/bin/$name"
  done
  cp -R deploy/demo-model "$out/share/"
  cp LICENSE "$out/share/"
  cp "$build/clamor.protoset" "$out/share/"
  # CUDA's own libraries come with the base image. A library's package knows it by one of two names of its folder.
  for library in $(ldd "$out"/bin/clamor* | awk '/=> \//{print $3}' | grep -v /cuda | sort -u); do
    library=$(readlink -f "$library")
    dpkg-query -S "$library" "${library#/usr}" 2>/dev/null || true
  done | cut -d: -f1 | sort -u >"$out/packages"
}

compile() {
  local out=$1
  source deploy/packages.sh
  ensure_packages
  cmake --preset release -DCLAMOR_TESTS=OFF
  cmake --build --preset release
  collect build/release "$out"
}

# SPDX: what is in this root, by package.
contents() {
  cat <<EOF
{"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "clamor",
 "documentNamespace": "urn:clamor:image:$(cat /usr/local/bin/clamor* | sha256sum | cut -c1-64)",
 "creationInfo": {"created": "$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y-%m-%dT%H:%M:%SZ)", "creators": ["Tool: deploy/images/steps.sh"]},
 "packages": [
EOF
  dpkg-query -W -f='  {"SPDXID": "SPDXRef-${Package}", "name": "${Package}", "versionInfo": "${Version}", "supplier": "Organization: ${Origin}", "downloadLocation": "NOASSERTION", "filesAnalyzed": false, "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": "pkg:deb/debian/${Package}@${Version}?arch=${Architecture}"}]},\n' |
    sed -E ':a; s/(SPDXRef-[^"]*)\+/\1-plus/; ta; s/Organization: "/Organization: Debian"/'
  printf '  {"SPDXID": "SPDXRef-clamor-source", "name": "clamor", "versionInfo": "%s", "downloadLocation": "NOASSERTION", "filesAnalyzed": false}]}\n' \
    "$(/usr/local/bin/clamor --version | cut -d' ' -f2)"
}

assemble() {
  local out=$1
  shift
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  # shellcheck disable=SC2046
  apt-get install -y -q --no-install-recommends $(cat "$out/packages") "$@"
  rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
  cp "$out"/bin/* /usr/local/bin/
  mkdir -p /usr/share/clamor
  cp -R "$out"/share/* /usr/share/clamor/
  contents >/usr/share/clamor/contents.spdx.json
  # A number that Kubernetes can check without knowing names, and a place for what must be kept.
  echo 'clamor:x:65532:65532::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
  echo 'clamor:x:65532:' >>/etc/group
  install -d -o 65532 -g 65532 -m 0750 /var/lib/clamor
}

case ${1:-} in
  compile | assemble | collect) "$@" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
