#!/usr/bin/env python3
"""Speed on a CPU beside llama.cpp, and against the memory's own speed: plain decoding and the reading of a prompt, by weight format.

    bench/peers/cpu.py MODEL_DIR WORK_DIR [--formats bf16,int8,int4,fp32] [--rounds 5] [--threads 2] [--bin build/release/bin]

MODEL_DIR is a Hugging Face directory of a Qwen2 model. What it needs is installed from PyPI into WORK_DIR/venv if it is missing
(llama-cpp-python, gguf, numpy); the same weights are written there for llama.cpp, in bf16 and f32, and quantised by llama.cpp to
Q8_0 and Q4_0. In each round both programs run one after the other; figures are medians over the rounds, ratios medians of each
round's ratio. The roof is what memory_bench reads in the same rounds. Writes WORK_DIR/cpu.json and WORK_DIR/cpu.html.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
PACKAGES = {"llama_cpp": "llama-cpp-python", "gguf": "gguf", "numpy": "numpy"}
PROMPT, SHORT, ANSWER = 512, 16, 64  # tokens: of the prompt that is timed, of the one before the answer, of the answer


def ensure_packages(work):
    """Runs this script again with an interpreter that has the packages, if this one lacks any."""
    if all(importlib.util.find_spec(name) for name in PACKAGES):
        return
    python = work / "venv/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
        print("installing", *PACKAGES.values(), "(llama.cpp is compiled: minutes)", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES.values()], check=True)
    if pathlib.Path(sys.executable) == python:
        sys.exit(f"{work}/venv lacks one of {', '.join(PACKAGES.values())}: remove the folder and try again")
    os.execv(python, [python, *sys.argv])


class Clamor:
    def __init__(self, args, weights):
        self.command = [args.bin / "clamor", "generate", "--model", args.model, "--weights", weights, "--threads", str(args.threads),
                        "--nodes", "0", "--ignore-eos", "--output", "json"]

    def run(self, ids, tokens):
        done = subprocess.run([*map(str, self.command), "--ids", ",".join(map(str, ids)), "--max-tokens", str(tokens)],
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"clamor: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def prefill(self, ids):
        return len(ids) / self.run(ids, 1)["prefill_seconds"]

    def decode(self, ids):
        return self.run(ids, ANSWER)["tokens_per_second"]


class LlamaCpp:
    def __init__(self, args, path):
        from llama_cpp import Llama
        self.llama = Llama(model_path=str(path), n_ctx=PROMPT + ANSWER + 16, n_batch=PROMPT, n_threads=args.threads,
                           n_threads_batch=args.threads, verbose=False)
        self.prefill(list(range(SHORT)))  # the first call faults the weights in

    def prefill(self, ids):
        self.llama.reset()
        begin = time.perf_counter()
        self.llama.eval(ids)
        return len(ids) / (time.perf_counter() - begin)

    def decode(self, ids):
        """The choice of the token is not counted: only the model."""
        import numpy
        self.llama.reset()
        self.llama.eval(ids)
        seconds = 0.0
        for _ in range(ANSWER - 1):
            scores = self.llama._ctx.get_logits()
            token = int(numpy.argmax(numpy.ctypeslib.as_array(scores, shape=(self.llama.n_vocab(),))))
            begin = time.perf_counter()
            self.llama.eval([token])
            seconds += time.perf_counter() - begin
        return (ANSWER - 1) / seconds


def bytes_per_token(model, weights):
    """Of the matrices that a step reads, as they are held: quantised ones with a scale of 16 bits for each 32 weights."""
    import gguf_model
    bits = {"fp32": 32, "bf16": 16, "int8": 8.5, "int4": 4.5}[weights]
    tied = json.loads((model / "config.json").read_text()).get("tie_word_embeddings", False)
    total = 0
    for file in sorted(model.glob("*.safetensors")):
        for name, array in gguf_model.tensors(file):
            if array.ndim == 2 and (tied or "embed_tokens" not in name):
                head = "embed_tokens" in name or "lm_head" in name
                total += array.size * (8.5 if head and weights == "int4" else bits) / 8
    return total


def roof(args):
    done = subprocess.run([args.bin / "memory_bench", str(args.threads), "1"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["gb_per_second"]


def measure(args, weights, peer_path):
    ours, peer = Clamor(args, weights), LlamaCpp(args, peer_path)
    rng = random.Random(1)
    ids = [rng.randrange(1000, 20000) for _ in range(PROMPT)]
    size = bytes_per_token(args.model, weights)
    rounds = []
    for i in range(args.rounds):
        row = {"roof": roof(args), "ours": ours.decode(ids[:SHORT]), "peer": peer.decode(ids[:SHORT]),
               "ours_prefill": ours.prefill(ids), "peer_prefill": peer.prefill(ids)}
        row["share"] = row["ours"] * size / (row["roof"] * 1e9)
        rounds.append(row)
        print(f"{weights} round {i + 1}: " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()), file=sys.stderr)
    median = lambda value: statistics.median(map(value, rounds))
    return {"weights": weights, "peer": PEERS[weights], "bytes_per_token": size,
            "roof_gb_per_second": median(lambda r: r["roof"]),
            "decode": median(lambda r: r["ours"]), "peer_decode": median(lambda r: r["peer"]),
            "decode_ratio": median(lambda r: r["ours"] / r["peer"]), "share_of_roof": median(lambda r: r["share"]),
            "prefill": median(lambda r: r["ours_prefill"]), "peer_prefill": median(lambda r: r["peer_prefill"]),
            "prefill_ratio": median(lambda r: r["ours_prefill"] / r["peer_prefill"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--formats", default="bf16,int8,int4,fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    ensure_packages(args.work)
    import gguf_model
    rows = []
    for weights in args.formats.split(","):
        if weights not in PEERS:
            sys.exit(f"--formats: {weights} is not one of {', '.join(PEERS)}")
        rows.append(measure(args, weights, gguf_model.ensure(args.model, args.work, PEERS[weights])))
        (args.work / "cpu.json").write_text(json.dumps(rows, indent=1) + "\n")
    subprocess.run([sys.executable, ROOT / "bench/report.py", args.work / "cpu.html", args.work / "cpu.json"], check=True)
    print("| weights | decode, tokens/s | of the roof | llama.cpp | ratio | prompt of 512, tokens/s | llama.cpp | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['weights']} | {r['decode']:.1f} | {100 * r['share_of_roof']:.0f} % | {r['peer_decode']:.1f} ({r['peer']}) | "
              f"{r['decode_ratio']:.2f} | {r['prefill']:.0f} | {r['peer_prefill']:.0f} | {r['prefill_ratio']:.2f} |")


if __name__ == "__main__":
    main()
