#!/usr/bin/env python3
"""Which noise makes a model draft best: noise x length x segments, each a fine-tuning of one base model by `clamor train`.

    bench/noise_study.py BASE TRAIN.jsonl HOLDOUT.jsonl QUESTIONS.jsonl OUT [--steps 320] [--jobs 2] [--clamor build/release/bin/clamor]

BASE is a model directory and TRAIN and HOLDOUT are conversations (deploy/demo-model/train.sh makes all three); QUESTIONS is GSM8K's
test.jsonl. OUT gets a folder for each run, results.json and table.md: held-out loss, and tokens per forward of `clamor eval` at 8, 16
and 64 nodes and with the published tree, for greedy answers and for sampled ones. Small models repeat themselves when they are greedy,
and any drafter is good at that; sampled text seldom does. Runs that are there already are kept, so an interrupted study goes on. All
runs see the same samples in the same order; only the noise differs.
"""
import argparse
import concurrent.futures
import itertools
import json
import pathlib
import subprocess

KINDS, LENGTHS, SEGMENTS = ["ahead", "uniform", "jacobi"], [1, 5, 8], [1, 2, 4]
MODES = ["merged:8", "merged:16", "merged:64", "published"]
TEMPERATURES = {"greedy": 0, "sampled": 0.8}


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
    for name in ("base", "train", "holdout", "questions", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=320, help="optimizer steps of each run")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, of one thread each; 1: one run with all threads")
    parser.add_argument("--prompts", type=int, default=40, help="questions answered by each model")
    parser.add_argument("--clamor", default=pathlib.Path(__file__).resolve().parents[1] / "build/release/bin/clamor")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    threads = ["--threads", "1" if args.jobs > 1 else "0"]

    def clamor(name, *options):
        with (args.out / f"{name}.log").open("ab") as log:
            subprocess.run([args.clamor, *map(str, options), *threads], check=True, stdout=log, stderr=log)

    def tokens_per_forward(name, temperature):
        report = args.out / f"{name}-{temperature}.json"
        if not report.exists():
            clamor(name, "eval", "--model", args.out / name, "--suite", "gsm8k", "--data", args.questions, "--limit", args.prompts,
                   "--modes", ",".join(MODES), "--temperature", temperature, "--seed", 1, "--output", "json", "--file", report)
        overall = json.loads(report.read_text())["overall"]
        return {mode: overall[mode]["tokens_per_forward"] for mode in MODES}

    def run(kind, length, segments):
        name = f"{kind}-{length}x{segments}" if kind != "none" else "none"
        folder = args.out / name
        if last_evaluation(folder) is None:
            print(name, flush=True)
            clamor(name, "train", "--model", args.base, "--data", args.train, "--holdout", args.holdout, "--output", folder,
                   "--noise", kind, "--noise-length", length, "--noise-segments", segments, "--max-steps", args.steps,
                   "--batch-tokens", args.batch_tokens, "--max-length", 512, "--on-bad-sample", "skip", "--evaluate-prompts", 1,
                   "--evaluate-every", 10**9, "--resume")
        return {"noise": kind, "length": length, "segments": segments, "heldout_loss": last_evaluation(folder)["heldout_loss"],
                **{text: tokens_per_forward(name, temperature) for text, temperature in TEMPERATURES.items()}}

    runs = [("none", 5, 1), *itertools.product(KINDS, LENGTHS, SEGMENTS)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda options: run(*options), runs))
    (args.out / "results.json").write_text(json.dumps(results, indent=1))

    titles = [f"{text} {mode.removeprefix('merged:')}" for text in TEMPERATURES for mode in MODES]
    rows = ["| noise | length | segments | held-out loss | " + " | ".join(titles) + " |", "|" + "---|" * (4 + len(titles))]
    for r in results:
        speeds = " | ".join(f"{r[text][mode]:.2f}" for text in TEMPERATURES for mode in MODES)
        where = ("", "") if r["noise"] == "none" else (r["length"], r["segments"])
        rows.append(f"| {r['noise']} | {where[0]} | {where[1]} | {r['heldout_loss']:.4f} | {speeds} |")
    (args.out / "table.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
