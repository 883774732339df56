"""Workers are lost in the middle of answers, by kill -9, by SIGSTOP (and wake up later) and by SIGTERM: clients get, after a
pause, the bytes that they would have got.

The workers have the kernels of different CPUs: CLAMOR_TARGETS, if unset the two best of "avx512,avx2,scalar" that this
machine has. Rounds of streams are disturbed until CLAMOR_DISTURBED answers (20 if unset) have changed their worker, a tenth of
them twice, by as many kills and stops as belong to so many; CLAMOR_SEED (1) makes other rounds.
"""
import collections
import datetime
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

import client
from client import Client, QUESTIONS, Stream
from cluster import SECONDS, ClusterTest, main, wait_until

DISTURBED = int(os.environ.get("CLAMOR_DISTURBED", "20"))
TWICE = DISTURBED // 10  # of them
LOSSES = -(-DISTURBED * 60 // 1000)  # of workers that serve them, by either way
SEED = int(os.environ.get("CLAMOR_SEED", "1"))
BEST = [target for target, flag in (("avx512", "avx512f"), ("avx2", "avx2"), ("scalar", ""), ("scalar", ""))
        if flag in pathlib.Path("/proc/cpuinfo").read_text()][:2]
TARGETS = os.environ["CLAMOR_TARGETS"].split(",") if "CLAMOR_TARGETS" in os.environ else BEST
SCHEMA = """{"type": "object", "required": ["steps", "answer"], "properties": {
    "steps": {"type": "array", "minItems": 20, "items": {"type": "object", "required": ["number", "done"],
              "properties": {"number": {"type": "integer"}, "done": {"type": "boolean"}}}},
    "answer": {"type": "integer"}}}"""
LONG = dict(max_tokens=300, ignore_eos=True)
KINDS = {
    "greedy": dict(LONG),
    "sampled": dict(LONG, temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=7),
    "stop strings": dict(LONG, temperature=1.5, seed=11, stop=["\n\n\n\n", "zebra crossing", "####  "], min_tokens=200),
    "schema": dict(max_tokens=300, temperature=0.7, seed=5, json_schema=SCHEMA),
    "logprobs": dict(LONG, top_logprobs=3, presence_penalty=0.5),
}


Failover = collections.namedtuple("Failover", "request worker reason tokens")


class TimedStream(Stream):
    """Knows the longest pause between its tokens."""

    def __init__(self, call):
        self._last = None
        self.pause = 0
        super().__init__(call)

    def _count(self, tokens):
        now = time.monotonic()
        if self._last is not None:
            self.pause = max(self.pause, now - self._last)
        self._last = now
        super()._count(tokens)


def what_counts(answer):
    """Of an answer, what must not depend on workers."""
    return (answer.ids, answer.text, [logprobs.SerializeToString() for logprobs in answer.logprobs],
            answer.finished.reason, answer.finished.matched_stop)


class FailoverTest(ClusterTest):

    worker_environments = tuple({"CLAMOR_CPU_TARGET": TARGETS[i % len(TARGETS)]} for i in range(3))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.expected = {}

    def setUp(self):
        for worker in self.cluster.workers:
            if worker.alive():
                worker.resume()
            else:
                worker.start()
        self.wait_all_ready()

    def wait_all_ready(self):
        states = lambda: [w.state for w in Client(self.cluster.gateway).models.GetStatus(client.model.GetStatusRequest()).workers]
        wait_until(lambda: states() == [client.model.WORKER_STATE_READY] * len(self.cluster.workers), "all workers are ready")

    def expect(self, question, kind):
        """What an undisturbed stream brings."""
        if (question, kind) not in self.expected:
            self.expected[question, kind] = what_counts(Client(self.cluster.gateway).ask(QUESTIONS[question], **KINDS[kind]))
        return self.expected[question, kind]

    def failovers(self):
        """Every answer that has moved so far, by the gateway's log, which must agree with its metric of all losses: each has
        moved."""
        def agreed():
            found = re.findall(r"event=failover id=(\w+) from=(\S+) to=\S+ reason=(\w+) tokens=(\d+)",
                               self.cluster.gateway.log.read_text())
            counted = self.cluster.gateway.metric("clamor_gateway_failovers_total") if found else 0
            return (found,) if counted == len(found) else None

        found, = wait_until(agreed, "log and metric agree")
        return [Failover(request, worker, reason, int(tokens)) for request, worker, reason, tokens in found]

    def noticed(self, worker, since):
        """Seconds from the time `since` until the gateway knew that the worker hangs; None if no answer was there to lose."""
        for when in re.findall(rf"time=(\S+) .*event=worker_lost .*worker={worker.address} reason=hung",
                               self.cluster.gateway.log.read_text()):
            seconds = datetime.datetime.fromisoformat(when).timestamp() - since
            if seconds > 0:
                return seconds
        return None

    def load(self, worker):
        stub = client.worker_grpc.WorkerServiceStub(client.connect(worker))
        return stub.GetLoad(client.worker.GetLoadRequest(), timeout=SECONDS).load

    def start_streams(self, choices, **fields):
        streams = [TimedStream(Client(self.cluster.gateway).start(QUESTIONS[question], **KINDS[kind], **fields))
                   for question, kind in choices]
        wait_until(lambda: all(stream.tokens > 0 for stream in streams), "the streams have begun")
        return streams

    def busiest(self, besides=()):
        return max((worker for worker in self.cluster.workers if worker not in besides),
                   key=lambda worker: self.load(worker).running)

    def disturb(self, streams, hows):
        """Kills or stops the busiest worker, then, when its streams have gone on elsewhere, the busiest of the others and so
        on. Returns them, and when it was."""
        disturbed, times = [], []
        ended = lambda: not any(stream.running() for stream in streams)
        for how in hows:
            if disturbed:
                wait_until(lambda: len(self.failovers()) > moved or ended(), "the loss has been noticed")
                reached = [stream.tokens for stream in streams]
                wait_until(lambda: all(not s.running() or s.tokens > n + 20 for s, n in zip(streams, reached)), "all go on")
            moved = len(self.failovers())
            worker = self.busiest(besides=disturbed)
            times.append(time.time())
            if how == "killed":
                worker.kill()
            else:
                worker.pause()
            disturbed.append(worker)
        return disturbed, times

    def heal(self, disturbed, hows):
        for worker, how in zip(disturbed, hows):
            if how == "killed":
                worker.start()
            else:
                worker.resume()
        self.wait_all_ready()
        for worker in self.cluster.workers:
            wait_until(lambda: self.load(worker).running == 0, "what was fenced has been cancelled")

    def test_streams_survive_their_workers(self):
        chance = random.Random(SEED)
        seconds = collections.defaultdict(list)  # that clients paused, by how often and why; that a hang took to be noticed
        losses = collections.Counter()  # of workers that served somebody
        losses_of, kinds = collections.Counter(), collections.Counter()  # by the answer; by kind, of the answers that moved
        rounds = 0

        def enough():
            return (len(losses_of) >= DISTURBED and sum(count > 1 for count in losses_of.values()) >= TWICE and
                    min(losses["died"], losses["hung"]) >= LOSSES and rounds >= 4)

        while not enough():
            self.assertLess(rounds, 4 + DISTURBED, "most rounds disturb nobody")
            hows = [("killed",), ("stopped",), ("killed", "stopped"), ("stopped", "killed")][rounds % 4]
            choices = [(chance.randrange(3), kind) for kind in chance.choices(list(KINDS), k=6)]
            expected = [self.expect(*choice) for choice in choices]
            before = len(self.failovers())
            streams = self.start_streams(choices, nodes=chance.choice([0, 0, 4]))
            begin = chance.randrange(60)
            wait_until(lambda: all(not stream.running() or stream.tokens > begin for stream in streams), "some progress")
            disturbed, times = self.disturb(streams, hows)
            for choice, stream, whole in zip(choices, streams, expected):
                with self.subTest(round=rounds, choice=choice, hows=hows):
                    self.assertEqual(what_counts(stream.answer()), whole)
            moved = self.failovers()[before:]
            reasons = {worker.address: {"killed": "died", "stopped": "hung"}[how] for worker, how in zip(disturbed, hows)}
            losses.update(reasons[address] for address in {failover.worker for failover in moved})
            of_round = {stream.started.request_id: (kind, stream) for (_, kind), stream in zip(choices, streams)}
            for request, worker, reason, tokens in moved:
                kind, stream = of_round[request]
                self.assertEqual(reason, reasons.get(worker), "a worker was given up that did nothing")
                self.assertTrue(0 < tokens < len(stream.answer().ids), (request, tokens))
                losses_of[request] += 1
                kinds[kind] += losses_of[request] == 1
            for request in {failover.request for failover in moved} if len(hows) == 1 else ():
                seconds[f"pauses, {hows[0]}"].append(of_round[request][1].pause)
            for worker, how, since in zip(disturbed, hows, times):
                if how == "stopped" and (passed := self.noticed(worker, since)):
                    seconds["a hang is noticed"].append(passed)
            self.heal(disturbed, hows)
            rounds += 1
        print(f"{len(losses_of)} answers moved in {rounds} rounds, {sum(count > 1 for count in losses_of.values())} of them more than "
              f"once, {losses_of.total()} moves; workers lost {dict(losses)}; kinds {dict(kinds)}; CPUs {', '.join(TARGETS)}")
        for what, some in seconds.items():
            ranks = statistics.quantiles(some, n=100, method="inclusive") if len(some) > 1 else some * 99
            print(f"{what}: {len(some)}, p50 {ranks[49]:.3f} s, p99 {ranks[98]:.3f} s, at most {max(some):.3f} s")
        self.assertLessEqual(statistics.median(seconds["a hang is noticed"]), 2)
        if DISTURBED >= 20 * len(KINDS):
            self.assertEqual(kinds.keys(), KINDS.keys())

    def test_several_answers(self):
        fields = dict(LONG, temperature=1.0, seed=3, n=3)
        alone = {answer.started.choice: answer for answer in Client(self.cluster.gateway).ask_unary(QUESTIONS[0], **fields)}
        before = len(self.failovers())
        call = Client(self.cluster.gateway).start(QUESTIONS[0], nodes=0, **fields)
        events = collections.defaultdict(list)
        killed = None
        for event in call:
            part = getattr(event, event.WhichOneof("event"))
            events[part.choice].append(event)
            if killed is None and len(events) == 3 and all(len(some) > 5 for some in events.values()):
                killed = self.busiest()
                killed.kill()
        for choice, answer in alone.items():
            got = client.collect(events[choice])
            self.assertEqual((got.ids, got.text), (list(answer.token_ids), answer.text))
        self.assertGreaterEqual(len(self.failovers()) - before, 1)

    def test_a_worker_that_drains_is_relieved(self):
        before = len(self.failovers())
        fields = dict(max_tokens=800, ignore_eos=True)  # longer than it takes to notice
        expected = what_counts(Client(self.cluster.gateway).ask(QUESTIONS[0], **fields))
        streams = [Stream(Client(self.cluster.gateway).start(QUESTIONS[0], nodes=0, **fields)) for _ in range(6)]
        wait_until(lambda: all(stream.tokens > 0 for stream in streams), "the streams have begun")
        worker = self.busiest()
        signalled = time.monotonic()
        worker.terminate()
        self.assertEqual(worker.wait_exit(), 0)
        print(f"the worker stopped {time.monotonic() - signalled:.2f} s after SIGTERM, "
              f"{sum(stream.running() for stream in streams)} streams ran on")
        for stream in streams:
            self.assertEqual(what_counts(stream.answer()), expected)
        self.assertEqual({failover.reason for failover in self.failovers()[before:]}, {"drained"})

    def test_overload_moves_nobody(self):
        before = self.failovers()
        # Programs of their own: gRPC's threads do not outlive a fork.
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
        try:
            choices = [(i % 3, list(KINDS)[i % len(KINDS)]) for i in range(15)]
            streams = self.start_streams(choices)
            answers = [what_counts(stream.answer()) for stream in streams]
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        self.assertEqual(self.failovers(), before)
        for choice, answer in zip(choices, answers):
            self.assertEqual(answer, self.expect(*choice))


if __name__ == "__main__":
    main()
