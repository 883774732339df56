#!/usr/bin/python3
"""A cluster of real processes under light load for a long time, while things go wrong at random: does anything grow?

Three workers, a gateway with sessions and a store. Requests arrive by chance: streams, greedy and sampled, some with a schema, unary
calls, turns of sessions that expire, resumed streams, clients that hang up. Every twenty seconds or so one thing goes wrong:
a worker is killed or stands still for some seconds, or stops and starts again; the store stands still. Servers that were
built with CLAMOR_FAULTS also get what services/faults can do: steps that are slow or do not end, messages that are damaged,
connections that break, disks that are full.

    bench/serving/soak.py --minutes 60 --output soak.json && bench/report.py soak.html soak.json

The gateway, the store and the first worker live through all of it. Their file descriptors, threads and memory, the worker's pages of
the key/value cache and the gateway's streams are sampled. Exits with 1 unless all are flat (the last quarter's median
against the second's), every request has ended in a way that it may, answers to a question are always the same, and at the end,
when nobody asks any more, no page and no stream is left.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/integration"))

import grpc

import client
from client import Client, QUESTIONS, faults
from cluster import Cluster, wait_until

SCHEMA = '{"type": "object", "required": ["answer"], "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}}}'
KINDS = [dict(ignore_eos=True), dict(ignore_eos=True, temperature=0.9, top_p=0.95), dict(temperature=0.7, json_schema=SCHEMA),
         dict(ignore_eos=True, temperature=1.2, stop=["####"], top_logprobs=2)]
SEEDS = 3  # of sampled answers: what is asked repeats, so that the store has an end
SESSION_TTL = 120
# How a request may end while things go wrong; anything else is a finding.
ALLOWED = {"OK", "CANCELLED", "STORE_FULL", "STORE_UNAVAILABLE", "NO_WORKER", "NO_COMPATIBLE_WORKER", "QUEUE_FULL",
           "SESSION_VERSION_CONFLICT", "STREAM_NOT_FOUND", "DROPPED"}


class Crowd:
    """Clients that come at a rate and ask. Keeps how they ended, and the answer to each question."""

    def __init__(self, gateway, rate, chance):
        self.gateway, self.rate, self.chance = gateway, rate, chance
        self.ends, self.differences = collections.Counter(), []
        self.poisoned = []  # from when to when they ran
        self._answers = {}
        self._lock = threading.Lock()
        self._clients = [Client(gateway) for _ in range(4)]
        self._running = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._arrive, daemon=True)
        self._thread.start()

    def _arrive(self):
        while not self._stop.wait(self.chance.expovariate(self.rate)):
            self._running = [thread for thread in self._running if thread.is_alive()]
            if len(self._running) > 100:
                self.ends["not asked"] += 1
                continue
            seed = self.chance.getrandbits(60)
            self._running.append(threading.Thread(target=self._ask, args=(random.Random(seed),), daemon=True))
            self._running[-1].start()

    def stop(self):
        self._stop.set()
        self._thread.join()
        for thread in self._running:
            thread.join(client.SECONDS)
        assert not any(thread.is_alive() for thread in self._running), "a request never ended"

    def _ask(self, chance):
        asker = chance.choice(self._clients)
        what = chance.choices([self._stream, self._unary, self._hang_up, self._session, self._resume], [5, 2, 2, 2, 1])[0]
        begin = time.monotonic()
        try:
            what(asker, chance)
            end = "OK"
        except grpc.RpcError as error:
            refusal = client.read_refusal(error)
            # Without a reason of ours it is gRPC's own: the connection to the gateway broke.
            end = refusal.reason or ("DROPPED" if error.code() == grpc.StatusCode.UNAVAILABLE else error.code().name)
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        with self._lock:
            self.ends[end] += 1
            if end == "POISON_REQUEST":
                self.poisoned.append((begin, time.monotonic()))

    def _question(self, chance):
        kind, question = chance.randrange(len(KINDS)), chance.randrange(len(QUESTIONS))
        return QUESTIONS[question], dict(KINDS[kind], seed=chance.randrange(SEEDS), max_tokens=40 + question, nodes=chance.choice([0, 8]))

    def _same(self, text, fields, ids):
        key = (text, *sorted((name, str(value)) for name, value in fields.items() if name != "nodes"))
        with self._lock:
            if self._answers.setdefault(key, list(ids)) != list(ids):
                self.differences.append(key)

    def _stream(self, asker, chance):
        text, fields = self._question(chance)
        self._same(text, fields, asker.ask(text, **fields).ids)

    def _unary(self, asker, chance):
        text, fields = self._question(chance)
        self._same(text, fields, asker.ask_unary(text, **fields).token_ids)

    def _hang_up(self, asker, chance):
        text, fields = self._question(chance)
        call, left = asker.start(text, **fields), chance.randrange(20)
        for _ in call:
            left -= 1
            if left < 0:
                call.cancel()
                return

    def _session(self, asker, chance):
        name = f"session-{chance.getrandbits(40)}"
        asker.sessions.CreateSession(client.session.CreateSessionRequest(name=name, ttl={"seconds": SESSION_TTL}), timeout=client.SECONDS)
        for turn in range(chance.randrange(1, 4)):
            client.collect(asker.say(name, QUESTIONS[turn][:60], max_tokens=12, seed=1, ignore_eos=True))

    def _resume(self, asker, chance):
        text, fields = self._question(chance)
        call = asker.start(text, **fields)
        started = next(iter(call)).started
        call.cancel()
        if started.resumable:
            self._same(text, fields, asker.resume(started.request_id)[0])


class Chaos:
    """One thing at a time goes wrong, and is put right again some seconds later."""

    def __init__(self, cluster, every, chance):
        self.cluster, self.every, self.chance = cluster, every, chance
        self.done = collections.Counter()
        self.times = []  # from when to when something was wrong
        self.things = [self.kill, self.kill, self.stand_still, self.restart, self.store_stands_still]
        if has_faults(cluster.gateway):
            self.things += [self.inject] * 5

    def run(self, seconds):
        """On the main thread: the kernel kills what a thread has started when that thread ends."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.chance.expovariate(1 / self.every)))
            thing = self.chance.choice(self.things)
            begin = time.monotonic()
            self.done[thing() or thing.__name__] += 1
            self.times.append((begin, time.monotonic()))

    def _mortal(self):
        return self.chance.choice(self.cluster.workers[1:])

    def kill(self):
        worker = self._mortal()
        worker.kill()
        worker.start().wait_ready()

    def restart(self):
        worker = self._mortal()
        worker.terminate()
        worker.wait_exit()
        worker.start().wait_ready()

    def stand_still(self, server=None):
        server = server or self._mortal()
        server.pause()
        time.sleep(self.chance.uniform(1, 4))
        server.resume()

    def store_stands_still(self):
        self.stand_still(self.cluster.retrieval)

    def inject(self):
        worker = self.chance.choice(self.cluster.workers)
        server, kind, place, fields = self.chance.choice([
            (worker, "SLOW", "step", dict(seconds=0.05)),
            (worker, "HANG", "step", dict(after=self.chance.randrange(50))),
            (worker, "HANG", "WorkerService/GetLoad", dict(times=1)),
            (worker, "CORRUPT", "WorkerService/StreamGenerate", dict(after=self.chance.randrange(20), times=2)),
            (worker, "DROP", "WorkerService/StreamGenerate", dict(after=self.chance.randrange(20), times=1)),
            (self.cluster.retrieval, "CORRUPT", "RetrievalService/Lookup", {}),
            (self.cluster.retrieval, "SLOW", "RetrievalService/Lookup", dict(seconds=0.5)),
            (self.cluster.retrieval, "FULL_DISK", "disk", {}),
            (self.cluster.gateway, "DROP", "GenerationService/StreamGenerate", dict(after=self.chance.randrange(20), times=1)),
            (self.cluster.gateway, "FULL_DISK", "disk", {})])
        fault = faults.Fault(kind=f"FAULT_KIND_{kind}", place=place, **fields)
        stub = client.faults_grpc.FaultServiceStub(client.connect(server))
        stub.SetFaults(faults.SetFaultsRequest(faults=[fault]), timeout=client.SECONDS)
        time.sleep(self.chance.uniform(2, 6))
        hits, = stub.SetFaults(faults.SetFaultsRequest(), timeout=client.SECONDS).hits
        return f"{kind} {place}" if hits else "inject, in vain"


def has_faults(server):
    try:
        client.faults_grpc.FaultServiceStub(client.connect(server)).SetFaults(faults.SetFaultsRequest(), timeout=client.SECONDS)
        return True
    except grpc.RpcError:
        return False


class Samples:
    """Taken until they are stopped."""

    def __init__(self, cluster, every):
        self.rows, self._cluster, self._every = [], cluster, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._take, args=(time.monotonic(),), daemon=True)
        self._thread.start()

    def _take(self, begin):
        while not self._stop.wait(self._every):
            try:
                self.rows.append(sample(self._cluster, (time.monotonic() - begin) / 60))
            except AssertionError:
                pass  # a server that stands still tells nothing

    def stop(self):
        self._stop.set()
        self._thread.join()
        return self.rows


def sample(cluster, minute):
    row = {"minute": round(minute, 3)}
    for name, server in (("gateway", cluster.gateway), ("worker", cluster.worker), ("store", cluster.retrieval)):
        process = pathlib.Path("/proc") / str(server.process.pid)
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        row[f"{name} RSS MiB"] = int(status["VmRSS"].split()[0]) / 1024
        row[f"{name} files"] = len(os.listdir(process / "fd"))
        row[f"{name} threads"] = int(status["Threads"])
    row["worker KV pages"] = cluster.worker.metric("clamor_kv_pages_used")
    row["gateway streams"] = cluster.gateway.metric("clamor_gateway_streams_open")
    return row


def flatness(samples):
    """Of each sampled number: the medians of the second and the last quarter, and whether that is flat."""
    quarter = len(samples) // 4
    rows = []
    for name in list(samples[0])[1:]:
        values = [row[name] for row in samples]
        early, late = statistics.median(values[quarter:2 * quarter]), statistics.median(values[-quarter:])
        room = 0.05 * early + (8 if name.endswith("MiB") else 5)
        rows.append({"what": name, "second quarter": early, "last quarter": late, "most": max(values), "flat": late <= early + room})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=0.7, help="requests a second")
    parser.add_argument("--fault-every", type=float, default=20, help="seconds from one thing that goes wrong to the next, about")
    parser.add_argument("--sample-every", type=float, default=5, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", help="JSON for bench/report.py")
    flags = parser.parse_args()
    # A small cache: all of it is in use soon, so that what grows later is something else.
    cluster = Cluster(("--threads", "1", "--kv-tokens", "4096"), ("--sessions", "STATE", "--resume-ttl", "120", "--failover-wait", "20"), ({}, {}, {}))
    try:
        sound = soak(cluster, flags)
    finally:
        cluster.stop()
    sys.exit(0 if sound else 1)


def soak(cluster, flags):
    chance = random.Random(flags.seed)
    crowd = Crowd(cluster.gateway, flags.rate, random.Random(chance.random()))
    chaos = Chaos(cluster, flags.fault_every, random.Random(chance.random()))
    sampling = Samples(cluster, flags.sample_every)
    chaos.run(60 * flags.minutes)
    samples = sampling.stop()
    crowd.stop()
    quiet = {"worker KV pages": 0, "gateway streams": 0}
    try:
        wait_until(lambda: quiet.items() <= sample(cluster, 0).items(), "nothing is left when nobody asks")
        left = 0
    except AssertionError:
        left = {name: sample(cluster, 0)[name] for name in quiet}
    flat = flatness(samples)
    findings = {end: count for end, count in crowd.ends.items() if end not in ALLOWED and end != "POISON_REQUEST"}
    # A request that two workers were lost with is refused: right if so much went wrong while it ran.
    blamed = sum(sum(begin < ended and end > began for began, ended in chaos.times) < 2 for begin, end in crowd.poisoned)
    if blamed:
        findings["POISON_REQUEST, of those that saw one fault"] = blamed
    failovers = {f"{reason} {outcome}": cluster.gateway.metric("clamor_gateway_failovers_total", reason=reason, outcome=outcome)
                 for reason in ("died", "hung", "drained", "damaged") for outcome in ("moved", "no_worker", "poison_request", "given_up")}
    report = {"minutes": flags.minutes, "requests": crowd.ends.total(), "ends": dict(crowd.ends), "faults": dict(chaos.done),
              "failovers": {name: count for name, count in failovers.items() if count}, "answers that differ": len(crowd.differences),
              "left at the end": left, "findings": findings, "flat": flat, "samples": samples}
    for name, value in report.items():
        if name not in ("flat", "samples"):
            print(f"{name}: {value}")
    for row in flat:
        print(f"{row['what']}: {row['second quarter']:.1f} -> {row['last quarter']:.1f}, at most {row['most']:.1f}"
              f"{'' if row['flat'] else ': GROWS'}")
    if flags.output:
        pathlib.Path(flags.output).write_text(json.dumps(report, indent=1))
    return not findings and not crowd.differences and left == 0 and all(row["flat"] for row in flat)


if __name__ == "__main__":
    main()
