#!/usr/bin/env python3
"""Includes only point down: checks every #include "..." of the tree against the table below.

Also: every *_test.cc is listed in the CMakeLists.txt beside it, every test that a file names at its head exists, and no
test or bench is included from outside.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder -> what its files may include, by prefix; the longest matching folder decides. "" stands for system headers of
# the libraries that the layer may see (checked by name below).
ALLOWED = {
    "kernels": ["kernels/"],
    "model/tokenizer": ["kernels/status_macros.h", "model/tokenizer/"],
    "model/grammar": ["kernels/status_macros.h", "model/grammar/", "model/tokenizer/"],
    "model/spec": ["kernels/", "model/"],
    "model": ["kernels/", "model/"],
    "retrieval": ["kernels/status_macros.h", "retrieval/"],
    "services/worker/engine": ["kernels/", "model/", "services/worker/"],
    "services/worker": ["kernels/", "model/", "clamor/v1/", "services/worker/", "services/"],
    "services/edge": ["kernels/status_macros.h", "model/tokenizer/", "clamor/v1/", "services/edge/", "services/"],
    "services/session": ["kernels/status_macros.h", "retrieval/rocks.h", "clamor/v1/", "services/session/", "services/"],
    "services/gateway": ["kernels/status_macros.h", "model/tokenizer/", "clamor/v1/", "services/gateway/", "services/edge/", "services/"],
    "services/retrieval": ["kernels/status_macros.h", "retrieval/", "clamor/v1/", "services/retrieval/", "services/"],
    "services/cli": ["kernels/", "model/", "retrieval/", "clamor/v1/", "services/cli/", "services/worker/", "services/"],
    "services": ["kernels/status_macros.h", "clamor/v1/", "google/rpc/", "services/"],
}
# Files of services/worker that form the engine: no gRPC, no proto, no RocksDB.
ENGINE = {"engine", "engine_queue", "engine_rep", "request", "scheduler", "sequence", "step_batch", "step_cost", "step_cost_probe", "knowledge_files", "knowledge_pool"}
# Libraries that only some folders may see.
LIBRARIES = {
    "grpc": ["services"], "grpcpp": ["services"], "google": ["services"], "rocksdb": ["retrieval", "services/session", "services/faults"], "hiredis": ["services/session"],
    "prometheus": ["services"], "spdlog": ["services"], "CLI": ["services"], "hwy": ["kernels"], "boost": ["services"],
    "openssl": ["model/tokenizer", "model/sha256", "services"], "pcre2.h": ["model/tokenizer"], "utf8proc.h": ["model/tokenizer"],
}
OTHER_SERVICES = ("gateway", "worker", "retrieval", "cli")  # edge is a part of the gateway
TESTED_BY = re.compile(r"tests/[\w/]+_test\.(?:cc|py)")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def folder_of(path):
    stem = path.stem
    if path.parent.as_posix() == "services/worker" and stem in ENGINE:
        return "services/worker/engine"
    return max((f for f in ALLOWED if path.as_posix().startswith(f + "/")), key=len)


def check(path):
    folder = folder_of(path)
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        for test in TESTED_BY.findall(line):
            if not (ROOT / test).exists():
                yield f"{path}:{number}: there is no {test}"
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, name = match.groups()
        where = f"{path}:{number}"
        top = name.split("/")[0]
        if top in LIBRARIES and not any(path.as_posix().startswith(f) for f in LIBRARIES[top]):
            yield f"{where}: {folder} may not see {name}"
        if folder == "services/worker/engine" and top in LIBRARIES:
            yield f"{where}: the engine may not see {name}"
        if quote != '"' or not (ROOT / name).exists() and not name.startswith(("clamor/v1/", "google/rpc/")):
            continue
        if not any(name == a or a.endswith("/") and name.startswith(a) for a in ALLOWED[folder]):
            yield f"{where}: {folder} may not include {name}"
        part = name.split("/")
        if part[0] == "services" and len(part) > 2 and part[1] in OTHER_SERVICES:
            own = path.as_posix().split("/")[1] if path.as_posix().startswith("services/") else ""
            if part[1] != own and own != "cli":
                yield f"{where}: {folder} may not include another service's {name}"


def unlisted_tests():
    for test in sorted((ROOT / "tests").rglob("*_test.cc")):
        lists = [p / "CMakeLists.txt" for p in (test.parent, test.parent.parent)]
        if not any(l.exists() and test.name in l.read_text() for l in lists):
            yield f"{test.relative_to(ROOT)}: listed in no CMakeLists.txt"


def main():
    errors = []
    files = 0
    for top in ("kernels", "model", "retrieval", "services"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu"):
                files += 1
                errors += check(path.relative_to(ROOT))
    errors += unlisted_tests()
    print("\n".join(errors) or f"{files} files, all includes point down")
    return 1 if errors or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
