#!/usr/bin/env python3
"""Decoding speed beside llama.cpp: the same prompts, plain and with drafts (ours merged, theirs prompt lookup decoding).

    python3 bench/peers/llama.py DIR FILE.gguf question.jsonl [--suite spec_bench] [--limit 2] [--max-tokens 64] [--weights int8]

DIR and FILE.gguf hold the same model (peers/cpu.py makes such files, Q8_0 for int8). Needs numpy and llama-cpp-python. `clamor eval`
answers first; llama.cpp then gets the very ids of each prompt. Tokens/s are of decoding: from the first token on, by category and overall.
"""
import argparse
import json
import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def speed_of(llama, prompt, max_tokens):
    """(tokens, seconds) of greedy decoding after the first token."""
    llama.reset()
    tokens, start = 0, None
    for token in llama.generate(prompt, temp=0.0, top_k=1):
        if start is None:
            start = time.perf_counter()
            continue
        tokens += 1
        if tokens >= max_tokens - 1 or token == llama.token_eos():
            break
    return tokens, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("gguf")
    parser.add_argument("data")
    parser.add_argument("--suite", default="spec_bench")
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", default="stored")
    parser.add_argument("--clamor", default=ROOT / "build/release/bin/clamor")
    args = parser.parse_args()
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    ours = json.loads(subprocess.run(
        [args.clamor, "eval", "--model", args.model, "--suite", args.suite, "--data", args.data, "--limit", str(args.limit),
         "--max-tokens", str(args.max_tokens), "--threads", str(args.threads), "--weights", args.weights, "--modes", "plain,merged",
         "--output", "json"],
        check=True, capture_output=True, text=True).stdout)
    rows = {}
    for entry in [*ours["categories"], {"category": "all", "modes": ours["overall"]}]:
        rows[entry["category"]] = {name: mode["tokens_per_second"] for name, mode in entry["modes"].items()}

    longest = max(len(answer["prompt_ids"]) for answer in ours["answers"])
    common = {"model_path": args.gguf, "n_ctx": longest + args.max_tokens + 16, "n_threads": args.threads,
              "n_threads_batch": args.threads, "verbose": False}
    for name, more in (("llama.cpp", {}),
                       ("llama.cpp lookup", {"draft_model": LlamaPromptLookupDecoding(), "logits_all": True})):
        llama, counts = Llama(**common, **more), {}
        for answer in ours["answers"]:
            tokens, seconds = speed_of(llama, answer["prompt_ids"], args.max_tokens)
            for category in (answer["category"], "all"):
                count = counts.setdefault(category, [0, 0.0])
                count[0] += tokens
                count[1] += seconds
        for category, (tokens, seconds) in counts.items():
            rows[category][name] = tokens / seconds
        del llama
    names = list(rows["all"])
    print("tokens/s\n| | " + " | ".join(names) + " | ours merged / plain | ours merged / best of llama.cpp |")
    print("|---" * (len(names) + 3) + "|")
    for category, row in rows.items():
        merged = next(value for name, value in row.items() if name.startswith("merged"))
        best = max(value for name, value in row.items() if name.startswith("llama"))
        print(f"| {category} | " + " | ".join(f"{row[name]:.1f}" for name in names) +
              f" | {merged / row['plain']:.2f} | {merged / best:.2f} |")


if __name__ == "__main__":
    main()
