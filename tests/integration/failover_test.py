"""Workers are lost in the middle of answers, by kill -9, by SIGSTOP (and wake up later) and by SIGTERM: clients get, after a
pause, the bytes that they would have got.

Each worker has the kernels of another CPU, as far as this machine has them. Rounds of streams are disturbed until
CLAMOR_DISTURBED answers (20 if unset) have changed their worker; CLAMOR_SEED (1) makes other rounds.
"""
import collections
import multiprocessing
import os
import pathlib
import random
import re
import statistics
import time

import client
from client import Client, QUESTIONS, Stream
from cluster import SECONDS, ClusterTest, main, wait_until

DISTURBED = int(os.environ.get("CLAMOR_DISTURBED", "20"))
SEED = int(os.environ.get("CLAMOR_SEED", "1"))
TARGETS = [target for target, flag in (("avx512", "avx512f"), ("avx2", "avx2"), ("scalar", ""))
           if flag in pathlib.Path("/proc/cpuinfo").read_text()]
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
        """(id, reason, tokens) of every answer that has moved so far, by the gateway's log, which must agree with its metric
        of all losses: each has moved."""
        def agreed():
            found = re.findall(r"event=failover id=(\w+) from=\S+ to=\S+ reason=(\w+) tokens=(\d+)",
                               self.cluster.gateway.log.read_text())
            counted = self.cluster.gateway.metric("clamor_gateway_failovers_total") if found else 0
            return (found,) if counted == len(found) else None

        found, = wait_until(agreed, "log and metric agree")
        return [(request, reason, int(tokens)) for request, reason, tokens in found]

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
        on. Returns them."""
        disturbed = []
        ended = lambda: not any(stream.running() for stream in streams)
        for how in hows:
            if disturbed:
                wait_until(lambda: len(self.failovers()) > moved or ended(), "the loss has been noticed")
                reached = [stream.tokens for stream in streams]
                wait_until(lambda: all(not s.running() or s.tokens > n + 20 for s, n in zip(streams, reached)), "all go on")
            moved = len(self.failovers())
            worker = self.busiest(besides=disturbed)
            if how == "killed":
                worker.kill()
            else:
                worker.pause()
            disturbed.append(worker)
        return disturbed

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
        pauses = {"killed": [], "stopped": []}
        rounds = 0
        while len(self.failovers()) < DISTURBED or rounds < 4:
            hows = [("killed",), ("stopped",), ("killed", "stopped"), ("stopped", "killed")][rounds % 4]
            choices = [(chance.randrange(3), kind) for kind in chance.choices(list(KINDS), k=6)]
            expected = [self.expect(*choice) for choice in choices]
            before = len(self.failovers())
            streams = self.start_streams(choices, nodes=chance.choice([0, 0, 4]))
            begin = chance.randrange(60)
            wait_until(lambda: all(not stream.running() or stream.tokens > begin for stream in streams), "some progress")
            disturbed = self.disturb(streams, hows)
            for choice, stream, whole in zip(choices, streams, expected):
                with self.subTest(round=rounds, choice=choice, hows=hows):
                    self.assertEqual(what_counts(stream.answer()), whole)
            moved = self.failovers()[before:]
            self.assertTrue(all(tokens > 0 for _, _, tokens in moved), moved)
            if len(hows) == 1:
                self.assertLessEqual({reason for _, reason, _ in moved}, {{"killed": "died", "stopped": "hung"}[hows[0]]})
                ids = {request for request, _, _ in moved}
                pauses[hows[0]] += [stream.pause for stream in streams if stream.answer().started.request_id in ids]
            self.heal(disturbed, hows)
            rounds += 1
        moved = self.failovers()
        twice = sum(count > 1 for count in collections.Counter(request for request, _, _ in moved).values())
        print(f"{len(moved)} answers moved in {rounds} rounds, {twice} of them twice: "
              f"{dict(collections.Counter(reason for _, reason, _ in moved))}")
        for how, seconds in pauses.items():
            ranks = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
            print(f"{how}: {len(seconds)} pauses, p50 {ranks[49]:.3f} s, p99 {ranks[98]:.3f} s" if seconds else f"{how}: none")

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
        choices = [(0, "greedy"), (1, "sampled"), (2, "logprobs")]
        expected = [self.expect(*choice) for choice in choices]
        streams = self.start_streams(choices, nodes=0)
        worker = self.busiest()
        signalled = time.monotonic()
        worker.terminate()
        self.assertEqual(worker.wait_exit(), 0)
        print(f"the worker stopped {time.monotonic() - signalled:.2f} s after SIGTERM, "
              f"{sum(stream.running() for stream in streams)} streams ran on")
        self.assertEqual([what_counts(stream.answer()) for stream in streams], expected)
        self.assertEqual({reason for _, reason, _ in self.failovers()[before:]}, {"drained"})

    def test_overload_moves_nobody(self):
        before = self.failovers()
        hogs = [multiprocessing.Process(target=burn, daemon=True) for _ in range(os.cpu_count())]
        for hog in hogs:
            hog.start()
        try:
            choices = [(i % 3, list(KINDS)[i % len(KINDS)]) for i in range(15)]
            streams = self.start_streams(choices)
            answers = [what_counts(stream.answer()) for stream in streams]
        finally:
            for hog in hogs:
                hog.kill()
        self.assertEqual(self.failovers(), before)
        for choice, answer in zip(choices, answers):
            self.assertEqual(answer, self.expect(*choice))


def burn():
    while True:
        pass


if __name__ == "__main__":
    main()
