#!/usr/bin/env python3
"""Each line below takes one check away. The fuzz target must notice within a minute, from its corpus.

    planted_bugs.py BUILD [NAME ...]    BUILD: the folder that the targets were built in, with -DCLAMOR_FUZZ=ON
"""
import dataclasses
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SECONDS = 60


@dataclasses.dataclass
class Bug:
    target: str
    file: str
    old: str  # stands in the file once
    new: str


BUGS = [
    Bug("safetensors_fuzz", "model/safetensors.cc", "if (end != data_bytes)", "if (end < data_bytes)"),
    Bug("config_fuzz", "model/config.cc", "if (c.heads % c.kv_heads != 0)", "if (c.heads < c.kv_heads)"),
    Bug("tokenizer_fuzz", "model/tokenizer/added_tokens.cc", "IsIntegerIn(id, 0, kMaxTokenId)", "IsIntegerIn(id, -9, kMaxTokenId)"),
    Bug("chat_template_fuzz", "model/tokenizer/jinja/subscript.cc", "Position(*index, offsets.size() - 1)", "Position(*index, offsets.size())"),
    Bug("schema_fuzz", "model/grammar/grammar.cc", "if (last.kind != Kind::kRoot) return false;", ""),
    Bug("request_fuzz", "services/worker/worker_service.cc", "if (ids[i] > kMaxInt)", "if (ids[i] > 2 * kMaxInt + 1)"),
    Bug("store_keys_fuzz", "retrieval/key_codec.cc", "if (key_rest.size() != 8)", "if (key_rest.size() < 8)"),
    Bug("segment_fuzz", "retrieval/segment_check.cc", "document.start != start || ", ""),
]


def run(command, folder):
    return subprocess.run(command, cwd=folder, shell=isinstance(command, str), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")


def broken_program(bug, build, folder):
    """The target, linked with the broken object before the libraries, which keeps the good one out."""
    text = (ROOT / bug.file).read_text()
    assert text.count(bug.old) == 1, f"{bug.file} has '{bug.old}' {text.count(bug.old)} times, not once"
    source, program, broken = folder / pathlib.Path(bug.file).name, folder / bug.target, folder / "broken.o"
    source.write_text(text.replace(bug.old, bug.new))
    commands = run(["ninja", "-t", "commands", f"bin/{bug.target}"], build).stdout.splitlines()
    compile_good = next(c for c in commands if c.endswith(f" -c {ROOT / bug.file}"))
    words = shlex.split(compile_good)
    words[words.index("-o") + 1], words[-1] = str(broken), str(source)
    words[words.index("-MF") + 1] = str(folder / "broken.d")
    compiled = run(words, build)
    assert compiled.returncode == 0, compiled.stdout
    main = f"tests/fuzz/CMakeFiles/{bug.target}.dir/{bug.target}.cc.o"
    link = commands[-1].replace(main, f"{main} {broken}").replace(f"-o bin/{bug.target}", f"-o {program}")
    linked = run(link, build)
    assert linked.returncode == 0, linked.stdout
    return program


def check(bug, build):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        program = broken_program(bug, build, folder)
        found = folder / "found"
        found.mkdir()
        words = ROOT / "tests/fuzz" / ("template.dict" if bug.target == "chat_template_fuzz" else "json.dict")
        began = time.monotonic()
        result = run([str(program), f"-max_total_time={SECONDS}", "-max_len=4096", "-rss_limit_mb=1024", "-timeout=10", f"-dict={words}",
                      str(found), str(ROOT / "tests/fuzz/corpus" / bug.target)], folder)
        took = time.monotonic() - began
        if result.returncode == 0:
            return f"not found in {took:.0f} s"
        if "ERROR: " not in result.stdout and "runtime error" not in result.stdout:
            return f"ended with {result.returncode}:\n{result.stdout[-1000:]}"
        print(f"ok    {bug.target}: {bug.file}, '{bug.old}' gone: found after {took:.1f} s", flush=True)
        return ""


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    build, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    failed = 0
    for bug in BUGS:
        if names and bug.target not in names:
            continue
        problem = check(bug, build)
        if problem:
            failed += 1
            print(f"MISS  {bug.target}: {bug.file}: {problem}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
