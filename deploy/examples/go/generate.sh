#!/usr/bin/env bash
# The stubs of main.go, into clamorv1/: needs protoc, protoc-gen-go and protoc-gen-go-grpc.
set -euo pipefail
cd "$(dirname "$0")"
files=(clamor/v1/generation.proto)
as=(--go_opt=Mclamor/v1/generation.proto=example.org/clamor-chat/clamorv1
    --go-grpc_opt=Mclamor/v1/generation.proto=example.org/clamor-chat/clamorv1)
mkdir -p clamorv1
protoc -I../../../proto "${as[@]}" --go_out=. --go_opt=module=example.org/clamor-chat \
  --go-grpc_out=. --go-grpc_opt=module=example.org/clamor-chat "${files[@]}"
