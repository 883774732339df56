#!/usr/bin/python3
"""A gateway and a worker of the demo model under more load than they can bear: what still comes in time.

Open loop: requests arrive by chance at a set rate, whatever becomes of those before. First alone (p99 of an answer, of which
three times is everybody's deadline from then on), then a sweep of rates to the best goodput (answers in time per second), then
--times that rate, then a quiet phase. 20 % of the requests have high priority.

    bench/serving/overload.py --seconds 20            # after a build of preset release; CLAMOR_BIN_DIR for another one

Prints goodput against its peak, answers in time of those that were admitted, how fast refusals come and whether they tell
when to come again, first tokens of high priority, and memory of the gateway. Give worker and generator cores of their own
(--worker-cpus, --client-cpus) or the generator slows what it measures.
"""
import argparse
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/integration"))

import grpc

import client
from cluster import Cluster

HIGH, NORMAL = client.generation.PRIORITY_HIGH, client.generation.PRIORITY_NORMAL


class Request:
    """One answer, read by gRPC's threads."""

    def __init__(self, stub, tokens, priority, seconds):
        self.priority, self.began = priority, time.monotonic()
        self.first = self.ended = self.code = None
        self.retry = False
        request = client.generation.StreamGenerateRequest(
            text=random.choice(client.QUESTIONS), options=client.options(max_tokens=tokens, ignore_eos=True, priority=priority))
        self.call = stub.StreamGenerate(request, timeout=seconds)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for event in self.call:
                if self.first is None and event.WhichOneof("event") == "delta":
                    self.first = time.monotonic() - self.began
            self.code = "OK"
        except grpc.RpcError as error:
            refusal = client.read_refusal(error)
            self.code, self.retry = refusal.reason or error.code().name, refusal.retry
        self.ended = time.monotonic() - self.began


class Phase:
    """What came of the requests of some seconds."""

    def __init__(self, stub, rate, seconds, tokens, deadline):
        self.requests, self.seconds = [], seconds
        end, due = time.monotonic() + seconds, time.monotonic()
        while due < end:
            time.sleep(max(0, due - time.monotonic()))
            priority = HIGH if random.random() < 0.2 else NORMAL
            self.requests.append(Request(stub, tokens, priority, deadline))
            due += random.expovariate(rate)
        limit = time.monotonic() + deadline + 5
        while any(r.ended is None for r in self.requests) and time.monotonic() < limit:
            time.sleep(0.02)

    def good(self):
        return [r for r in self.requests if r.code == "OK"]

    def goodput(self):
        return len(self.good()) / self.seconds

    def refused(self):
        return [r for r in self.requests if r.code in ("QUEUE_FULL", "TENANT_QUOTA")]

    def late(self):
        return [r for r in self.requests if r.code != "OK" and r not in self.refused()]


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def rss_mib(pid):
    return next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of a phase; the overload lasts --overload-seconds")
    parser.add_argument("--overload-seconds", type=float, default=0, help="default: three phases")
    parser.add_argument("--times", type=float, default=3, help="of the best rate")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--worker-cpus", default="", help="taskset's list for the worker")
    parser.add_argument("--client-cpus", default="", help="taskset's list for this process and the gateway")
    flags = parser.parse_args()
    random.seed(1)
    if flags.client_cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in flags.client_cpus.split(",")})
    cluster = Cluster(("--threads", "1", "--max-sequences", "8"), ("--max-waiting", "64"))
    if flags.worker_cpus:
        subprocess.run(["taskset", "-acp", flags.worker_cpus, str(cluster.worker.process.pid)], check=True, capture_output=True)
    try:
        stub = client.Client(cluster.gateway).generation
        measure(cluster, stub, flags)
    finally:
        cluster.stop()


def measure(cluster, stub, flags):
    alone = []
    for _ in range(20):
        request = Request(stub, flags.tokens, HIGH, 60)
        while request.ended is None:
            time.sleep(0.001)
        alone.append(request)
    deadline = 3 * percentile([r.ended for r in alone], 0.99)
    first_alone = percentile([r.first for r in alone], 0.99)
    print(f"alone: an answer p99 {deadline / 3:.3f} s (deadline {deadline:.3f} s), first tokens p99 {first_alone:.3f} s")
    best_rate = best = 0
    rate = 1 / percentile([r.ended for r in alone], 0.5)
    for _ in range(8):
        goodput = Phase(stub, rate, flags.seconds, flags.tokens, deadline).goodput()
        print(f"rate {rate:.1f}/s: goodput {goodput:.2f}/s")
        if goodput < 0.9 * best:
            break
        if goodput > best:
            best_rate, best = rate, goodput
        rate *= 1.4
    memory = rss_mib(cluster.gateway.process.pid)
    over = Phase(stub, flags.times * best_rate, flags.overload_seconds or 3 * flags.seconds, flags.tokens, deadline)
    admitted = over.good() + over.late()
    refused = over.refused()
    high = [r.first for r in over.requests if r.priority == HIGH and r.first]
    print(f"{flags.times:g} times the best rate: goodput {over.goodput():.2f}/s, {100 * over.goodput() / best:.0f} % of peak {best:.2f}/s; "
          f"{len(over.requests)} requests, {len(refused)} refused")
    print(f"admitted in time: {100 * len(over.good()) / max(1, len(admitted)):.2f} % of {len(admitted)}; others: "
          f"{sorted({r.code for r in over.late()})}")
    print(f"refusals: p99 {1000 * percentile([r.ended for r in refused], 0.99):.1f} ms, with RetryInfo "
          f"{sum(r.retry for r in refused)} of {len(refused)}")
    print(f"high priority: first tokens p99 {percentile(high, 0.99):.3f} s, {percentile(high, 0.99) / first_alone:.2f} times alone")
    print(f"gateway RSS: {memory:.0f} MiB before, {rss_mib(cluster.gateway.process.pid):.0f} MiB after")
    after = Phase(stub, best_rate / 2, 10, flags.tokens, deadline)
    print(f"then half the best rate: {100 * len(after.good()) / max(1, len(after.requests)):.0f} % in time")


if __name__ == "__main__":
    main()
