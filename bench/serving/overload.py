#!/usr/bin/python3
"""A gateway and a worker of the demo model under more load than they can bear: what still comes in time.

`clamor bench` asks, open loop: requests arrive by chance at a set rate, whatever becomes of those before. First alone (three
times the p99 of an answer is everybody's deadline from then on), then a sweep of rates to the best goodput (answers in time per
second), then --times that rate, with half of the best before it and after. 20 % of the requests have high priority.

    bench/serving/overload.py --worker-cpus 0 --other-cpus 1      # after a build of preset release; CLAMOR_BIN_DIR for another one

Worker and generator need cores of their own, or the generator slows what it measures. Takes about eight minutes; --seconds and
--overload-seconds make it shorter. Prints what was asked and what was measured; --keep DIR keeps the JSON of each run.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/integration"))

from cluster import BIN_DIR, ROOT, Cluster

QUESTIONS = [json.loads(line)["question"] for line in (ROOT / "tests/testdata/gsm8k/test-40.jsonl").open()]
SWEEP = (0.5, 0.7, 0.85, 1.0, 1.2)  # of what a closed loop gets through


class Bench:
    """Runs `clamor bench` against the cluster, with what all runs share."""

    def __init__(self, cluster, flags):
        self.flags = flags
        prompts = cluster.folder / "prompts.txt"
        prompts.write_text("".join(" ".join(question.split()) + "\n" for question in QUESTIONS))
        self.command = [BIN_DIR / "clamor", "bench", "--server", cluster.gateway.address, "--data", prompts,
                        "--max-tokens", flags.tokens, "--ignore-eos", "--output", "json"]

    def run(self, name, *more):
        """The phases of one run."""
        command = [str(word) for word in (*self.command, *more)]
        if self.flags.other_cpus:
            command = ["taskset", "-c", self.flags.other_cpus, *command]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"clamor bench failed: {done.stderr}")
        if self.flags.keep:
            pathlib.Path(self.flags.keep, f"{name}.json").write_text(done.stdout)
        return json.loads(done.stdout)["phases"]


class MemoryWatch:
    """The most that a process has resident while this is open, in MiB."""

    def __init__(self, pid):
        self.pid, self.most, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self._over.wait(0.5):
            self.most = max(self.most, rss_mib(self.pid))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def rss_mib(pid):
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")) / 1024


def late(phase):
    """Requests that were let in and did not get their answer in time."""
    return phase["failed"] + phase["cut"]


def share_in_time(phase, begin=0, end=math.inf):
    """Of the requests sent from one second to another, the percentage that got their answer in time."""
    pieces = [piece for piece in phase["slices"] if begin <= piece["second"] < end]
    return 100 * sum(piece["good"] for piece in pieces) / max(1, sum(piece["sent"] for piece in pieces))


def measure(cluster, flags):
    bench, mix = Bench(cluster, flags), ("--high", 0.2)
    gateway = cluster.gateway.process.pid
    alone = bench.run("alone", "--concurrency", 1, "--duration", 600, "--requests", flags.alone, "--high", 1)[0]
    deadline, first_alone = 3 * alone["total"]["p99"], alone["first_token"]["p99"]
    print(f"alone: an answer p99 {alone['total']['p99']:.3f} s, deadline {deadline:.3f} s; first token p99 {first_alone:.3f} s")
    busy = bench.run("busy", "--concurrency", 16, "--duration", flags.seconds, *mix)[0]
    capacity = busy["ok"] / busy["seconds"]
    rates = ",".join(f"{capacity * part:.2f}" for part in SWEEP)
    sweep = bench.run("sweep", "--rate", rates, "--duration", flags.seconds, "--deadline", deadline, *mix)
    for phase in sweep:
        print(f"rate {phase['rate']:.1f}/s: goodput {phase['goodput']:.2f}/s, {late(phase)} late, {phase['refused']} refused")
    peak = max(sweep, key=lambda phase: phase["goodput"])
    half = ("--rate", peak["goodput"] / 2, "--duration", flags.seconds, "--deadline", deadline, *mix)
    normal = bench.run("normal", *half)[0]
    before = rss_mib(gateway)
    with MemoryWatch(gateway) as memory:
        over = bench.run("overload", "--rate", flags.times * peak["goodput"], "--duration", flags.overload_seconds,
                         "--deadline", deadline, *mix)[0]
    after = bench.run("after", *half)[0]
    report = {"options": vars(flags), "alone": alone, "deadline": deadline, "sweep": sweep, "normal": normal, "overload": over,
              "after": after, "rss_mib": {"before": before, "most": memory.most, "after": rss_mib(gateway)}}
    show(report, peak)
    return report


def show(report, peak):
    over, normal, after, memory = report["overload"], report["normal"], report["after"], report["rss_mib"]
    high = over["by_priority"]["high"]
    admitted = over["ok"] + late(over)
    share = 100 * over["goodput"] / peak["goodput"]
    usual, settled = share_in_time(normal), share_in_time(after, 10)
    in_time = 100 * over["ok"] / max(1, admitted)
    refusals = {reason: counts for reason, counts in over["errors"].items() if reason in ("QUEUE_FULL", "TENANT_QUOTA")}
    refused = sum(counts["requests"] for counts in refusals.values())
    told = sum(counts["told_when_to_retry"] for counts in refusals.values())
    first = high["first_token"]["p99"] / report["alone"]["first_token"]["p99"]
    rows = [
        ("goodput, of the peak", ">= 90 %", f"{share:.0f} % ({over['goodput']:.2f} of {peak['goodput']:.2f}/s)", share >= 90),
        ("admitted requests in time", ">= 99 %", f"{in_time:.2f} % of {admitted}", in_time >= 99),
        ("refusals, p99", "< 50 ms", f"{1000 * over['refusal']['p99']:.1f} ms of {refused}", over["refusal"]["p99"] < 0.05),
        ("refusals with RetryInfo", "all", f"{told} of {refused}", told == refused == over["refused"]),
        ("first token of high priority, p99", "<= 1.5 x alone", f"{first:.2f} x ({high['first_token']['p99']:.3f} s)", first <= 1.5),
        ("gateway's memory", "bounded", f"{memory['before']:.0f} MiB before, most {memory['most']:.0f}, after {memory['after']:.0f}",
         memory["most"] < memory["before"] + 32),
        ("back to normal", "within 10 s", f"half of the peak in time: {usual:.1f} % before, {share_in_time(after, end=10):.1f} % in the "
         f"first 10 s after, {settled:.1f} % then", settled >= usual - 1),  # less is chance
    ]
    print(f"{over['rate']:.1f} requests/s for {over['seconds']:.0f} s: {over['sent']} sent, {over['ok']} answered, "
          f"{over['refused']} refused, {over['failed']} failed; reasons: "
          f"{ {reason: counts['requests'] for reason, counts in over['errors'].items()} }; "
          f"generator late by p99 {1000 * (over['late']['p99'] or 0):.1f} ms\n\n| | wanted | measured | |\n|---|---|---|---|")
    for what, wanted, measured, met in rows:
        print(f"| {what} | {wanted} | {measured} | {'met' if met else 'MISSED'} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each rate of the sweep, and of the phases before and after")
    parser.add_argument("--overload-seconds", type=float, default=300)
    parser.add_argument("--alone", type=int, default=100, help="requests one after the other, before any load")
    parser.add_argument("--times", type=float, default=3, help="of the best goodput")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--worker-cpus", default="", help="taskset's list for the worker")
    parser.add_argument("--other-cpus", default="", help="taskset's list for the generator and the gateway")
    parser.add_argument("--keep", help="folder for the JSON of each run")
    parser.add_argument("--output", help="file for all figures as JSON")
    flags = parser.parse_args()
    cluster = Cluster(("--threads", "1", "--max-sequences", "8"), ("--max-waiting", "64"))
    try:
        for server, cpus in ((cluster.worker, flags.worker_cpus), (cluster.retrieval, flags.other_cpus),
                             (cluster.gateway, flags.other_cpus)):
            if cpus:
                subprocess.run(["taskset", "-acp", cpus, str(server.process.pid)], check=True, capture_output=True)
        report = measure(cluster, flags)
    finally:
        cluster.stop()
    if flags.output:
        pathlib.Path(flags.output).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
