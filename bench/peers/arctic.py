#!/usr/bin/env python3
"""ArcticInference's suffix decoding over recorded answers, beside ours: the same traces, the same number of draft tokens.

    python3 bench/peers/arctic.py TRACES.jsonl [--bench build/release/bin/trace_bench] [--nodes 8,16,64]

TRACES.jsonl is what draft_bench --traces wrote. Needs numpy and arctic-inference (pip install --no-deps is enough). Its
cache is tried as chains and as trees and with several limits; the best of them at each number of nodes is shown.
"""
import argparse
import itertools
import json
import pathlib
import resource
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def accepted_of(draft, answer, done):
    """The longest path of the draft that the answer follows, and its nodes. parents[i] is an index before i, or -1."""
    depth = [0] * len(draft.token_ids)
    best = 0
    for i, (token, parent) in enumerate(zip(draft.token_ids, draft.parents)):
        above = 0 if parent < 0 else depth[parent]
        if (parent >= 0 and above == 0) or done + above >= len(answer) or answer[done + above] != token:
            continue
        depth[i] = above + 1
        best = max(best, depth[i])
    return best


def replay(traces, nodes, tree, factor, least):
    import numpy
    from arctic_inference.suffix_decoding import SuffixDecodingCache
    cache = SuffixDecodingCache(max_tree_depth=64)
    steps = accepted = drafted = 0
    lookup = append = 0.0
    by_category = {}
    for number, trace in enumerate(traces):
        prompt, answer = trace["prompt_ids"], trace["token_ids"]
        text = numpy.array(prompt + answer, dtype=numpy.int32)
        start = time.perf_counter()
        cache.start_request(number, text[:len(prompt)])
        append += time.perf_counter() - start
        done, mine = 0, [0, 0]
        while done < len(answer):
            context = text[max(0, len(prompt) + done - 64):len(prompt) + done]
            start = time.perf_counter()
            draft = cache.speculate(number, context, max_spec_tokens=nodes, max_spec_factor=factor, min_token_prob=least,
                                    use_tree_spec=tree)
            lookup += time.perf_counter() - start
            right = accepted_of(draft, answer, done)
            kept = min(right + 1, len(answer) - done)
            mine[0] += 1
            mine[1] += min(kept, right)
            drafted += len(draft.token_ids)
            start = time.perf_counter()
            cache.add_active_response(number, text[len(prompt) + done:len(prompt) + done + kept])
            append += time.perf_counter() - start
            done += kept
        cache.stop_request(number)
        steps, accepted = steps + mine[0], accepted + mine[1]
        category = by_category.setdefault(trace["category"], [0, 0])
        category[0] += mine[0]
        category[1] += mine[1]
    tokens = sum(len(t["prompt_ids"]) + len(t["token_ids"]) for t in traces)
    return {"tokens_per_step": 1 + accepted / steps, "accepted": accepted, "drafted": drafted, "steps": steps,
            "lookup_microseconds": 1e6 * lookup / steps, "append_microseconds_per_token": 1e6 * append / tokens,
            "options": f"{'tree' if tree else 'chain'}, factor {factor}, least {least}",
            "categories": {name: 1 + a / s for name, (s, a) in by_category.items()}}


def bytes_per_token(traces, copies=40):
    """Resident memory that its global tree grows by for each token, over many answers that differ."""
    import numpy
    from arctic_inference.suffix_decoding import SuffixDecodingCache
    cache = SuffixDecodingCache(max_tree_depth=64)
    before, tokens = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    generator = numpy.random.default_rng(1)
    for copy, (number, trace) in itertools.product(range(copies), enumerate(traces)):
        answer = numpy.array(trace["token_ids"], dtype=numpy.int32)
        answer[generator.random(len(answer)) < 0.2] += 1  # so that copies share some, not all
        cache.start_request((copy, number), answer[:0])
        cache.add_active_response((copy, number), answer)
        cache.stop_request((copy, number))
        tokens += len(answer)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces")
    parser.add_argument("--bench", default=ROOT / "build/release/bin/trace_bench")
    parser.add_argument("--nodes", default="8,16,64")
    args = parser.parse_args()
    traces = [json.loads(line) for line in open(args.traces)]

    def ours(*flags):
        done = subprocess.run([args.bench, args.traces, "--nodes", args.nodes, *flags], check=True, capture_output=True, text=True)
        return {row["nodes"]: row for row in map(json.loads, done.stdout.splitlines())}

    at_once, late = ours(), ours("--late")
    print("| nodes | | tokens per step | accepted | drafted | lookup, us | append, us a token | |\n|---|---|---|---|---|---|---|---|")
    for nodes in map(int, args.nodes.split(",")):
        theirs = max((replay(traces, nodes, *options) for options in
                      itertools.product((False, True), (1.0, 2.0, 4.0, 1e6), (0.0, 0.1))), key=lambda r: r["accepted"])
        for name, mine in (("ours, the store answers a step later", late[nodes]), ("ours, context + store, in process", at_once[nodes])):
            print(f"| {nodes} | {name} | {mine['all']['tokens_per_step']:.3f} | {mine['all']['accepted']} | "
                  f"{mine['all']['drafted']} | {mine['draft_microseconds']:.1f} + {mine['store_lookup_microseconds']:.1f} | "
                  f"{mine['append_microseconds_per_token']:.2f} | |")
        print(f"| | ArcticInference | {theirs['tokens_per_step']:.3f} | {theirs['accepted']} | {theirs['drafted']} | "
              f"{theirs['lookup_microseconds']:.1f} | {theirs['append_microseconds_per_token']:.2f} | {theirs['options']} |")
        for name, value in theirs["categories"].items():
            print(f"| | {name} | {mine[name]['tokens_per_step']:.3f} against {value:.3f} | | | | | |")
    print(f"\nArcticInference's tree: {bytes_per_token(traces):.0f} bytes a token of answer")


if __name__ == "__main__":
    main()
