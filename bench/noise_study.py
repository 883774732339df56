#!/usr/bin/env python3
"""Which noise makes a model draft best: noise x length x segments, each a fine-tuning of one base model by `clamor train`.

    bench/noise_study.py BASE TRAIN.jsonl HOLDOUT.jsonl OUT [--steps 320] [--jobs 2] [--clamor build/release/bin/clamor]

BASE is a model directory (deploy/demo-model/train.sh makes one); OUT gets a folder for each run, results.json and table.md, with
held-out loss and tokens per forward at 8, 16 and 64 nodes and with the published tree. Runs that are there already are kept, so an
interrupted study goes on. All runs see the same samples in the same order; only the noise differs.
"""
import argparse
import concurrent.futures
import itertools
import json
import pathlib
import subprocess

KINDS, LENGTHS, SEGMENTS = ["ahead", "uniform", "jacobi"], [1, 5, 8], [1, 2, 4]
DRAFTS = ["8", "16", "64", "published"]


def last_evaluation(folder):
    """Of a finished run; None of any other."""
    try:
        events = [json.loads(line) for line in (folder / "training.jsonl").open()]
    except (OSError, ValueError):
        return None
    if not events or events[-1].get("reason") != "done":
        return None
    return [event for event in events if event["event"] == "evaluation"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("base", "train", "holdout", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=320, help="optimizer steps of each run")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, of one thread each; 1: one run with all threads")
    parser.add_argument("--prompts", type=int, default=40, help="held-out prompts answered at the end of each run")
    parser.add_argument("--clamor", default=pathlib.Path(__file__).resolve().parents[1] / "build/release/bin/clamor")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    runs = [("none", 5, 1), *itertools.product(KINDS, LENGTHS, SEGMENTS)]

    def run(kind, length, segments):
        name = f"{kind}-{length}x{segments}" if kind != "none" else "none"
        folder = args.out / name
        if last_evaluation(folder) is None:
            print(name, flush=True)
            command = [args.clamor, "train", "--model", args.base, "--data", args.train, "--holdout", args.holdout, "--output", folder,
                       "--noise", kind, "--noise-length", str(length), "--noise-segments", str(segments), "--max-steps", str(args.steps),
                       "--batch-tokens", str(args.batch_tokens), "--max-length", "512", "--on-bad-sample", "skip",
                       "--evaluate-prompts", str(args.prompts), "--evaluate-every", str(10**9), "--evaluate-nodes", ",".join(DRAFTS),
                       "--threads", "1" if args.jobs > 1 else "0", "--resume"]
            with (args.out / f"{name}.log").open("ab") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log)
        evaluation = last_evaluation(folder)
        return {"noise": kind, "length": length, "segments": segments, "heldout_loss": evaluation["heldout_loss"],
                "tokens_per_forward": evaluation["tokens_per_forward"]}

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda options: run(*options), runs))
    (args.out / "results.json").write_text(json.dumps(results, indent=1))

    rows = ["| noise | length | segments | held-out loss | " + " | ".join(DRAFTS) + " |", "|" + "---|" * (4 + len(DRAFTS))]
    for r in results:
        speeds = " | ".join(f"{r['tokens_per_forward'][draft]:.2f}" for draft in DRAFTS)
        where = ("", "") if r["noise"] == "none" else (r["length"], r["segments"])
        rows.append(f"| {r['noise']} | {where[0]} | {where[1]} | {r['heldout_loss']:.4f} | {speeds} |")
    (args.out / "table.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
