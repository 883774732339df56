"""What goes wrong on demand (services/faults): answers stay what they are, or are refused with the reason; nothing damaged is
delivered, nothing acknowledged is lost, and all is well again afterwards.

Needs servers that were built with CLAMOR_FAULTS (tests/run.sh faults); of all others it only makes sure that they know
nothing of it.
"""
import hashlib
import os
import signal
import unittest

import grpc

import client
from client import Client, QUESTIONS, Stream, faults, refusal_of, retrieval
from cluster import BIN_DIR, SECONDS, ClusterTest, main, wait_until
from session_test import Talk

BUILT = os.environ.get("CLAMOR_FAULTS_BUILT", "OFF") == "ON"
SERVERS = ("clamor-gateway", "clamor-worker", "clamor-retrieval")
LONG = dict(max_tokens=200, ignore_eos=True)
SHORT = dict(max_tokens=8, ignore_eos=True)
STREAM = "WorkerService/StreamGenerate"


def fault(kind, place="", **fields):
    return faults.Fault(kind=f"FAULT_KIND_{kind}", place=place, **fields)


def set_faults(server, *some):
    """In place of those before, whose hits it returns."""
    stub = client.faults_grpc.FaultServiceStub(client.connect(server))
    return list(stub.SetFaults(faults.SetFaultsRequest(faults=some), timeout=SECONDS).hits)


class BinariesTest(unittest.TestCase):

    def test_faults_are_where_they_were_asked_for(self):
        for name in SERVERS:
            binary = (BIN_DIR / name).read_bytes()
            self.assertIn(b"clamor.v1.", binary)
            for word in (b"FaultService", b"SetFaults", b"--faults", b"FAULT_KIND", b"faults4Pass"):
                self.assertEqual(word in binary, BUILT, f"{word} in {name}")


@unittest.skipUnless(BUILT, "NOT TESTED: these servers were built without CLAMOR_FAULTS; tests/run.sh faults builds others")
class FaultsTest(ClusterTest):

    worker_environments = ({}, {})
    gateway_flags = ("--sessions", "STATE")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.expected = [Client(cls.cluster.gateway).ask(question, **LONG).ids for question in QUESTIONS[:6]]

    def setUp(self):
        self.faulty = self.cluster.worker
        self.heal()
        self.moved_before = self.moved()

    def tearDown(self):
        self.heal()

    def heal(self):
        for server in self.cluster.servers:
            if not server.alive():
                server.start()
            set_faults(server)
        ready = lambda: [w.state for w in Client(self.cluster.gateway).models.GetStatus(client.model.GetStatusRequest()).workers]
        wait_until(lambda: ready() == [client.model.WORKER_STATE_READY] * 2, "all workers are ready")
        wait_until(lambda: self.cluster.gateway.metric("clamor_gateway_breaker_open") == 0 or self.ask_all() and False,
                   "no worker is avoided")

    def moved(self, **labels):
        return self.cluster.gateway.metric("clamor_gateway_failovers_total", outcome="moved", **labels)

    def ask_all(self):
        """All questions at once; the answers must be those of a healthy cluster."""
        streams = [Stream(Client(self.cluster.gateway).start(question, nodes=0, **LONG)) for question in QUESTIONS[:6]]
        self.assertEqual([stream.answer().ids for stream in streams], self.expected)
        return streams

    def test_a_worker_is_killed_at_a_step(self):
        set_faults(self.faulty, fault("KILL", "step", after=20))
        self.ask_all()
        self.assertEqual(self.faulty.process.wait(SECONDS), -signal.SIGKILL)
        self.assertGreater(self.moved(reason="died"), 0)

    def test_a_worker_is_killed_at_a_message(self):
        set_faults(self.faulty, fault("KILL", STREAM, after=5))
        self.ask_all()
        self.assertEqual(self.faulty.process.wait(SECONDS), -signal.SIGKILL)

    def test_an_engine_hangs(self):
        before = self.moved(reason="hung")
        set_faults(self.faulty, fault("HANG", "step", after=20))
        self.ask_all()
        self.assertGreater(self.moved(reason="hung"), before)
        self.assertEqual(set_faults(self.faulty), [1])  # it answers still; its engine goes on from here

    def test_an_engine_is_slow(self):
        set_faults(self.faulty, fault("SLOW", "step", seconds=0.02))
        self.ask_all()
        self.assertGreater(set_faults(self.faulty)[0], 0)
        self.assertEqual(self.moved(), self.moved_before)

    def test_a_worker_does_not_answer(self):
        before = self.moved(reason="hung")
        set_faults(self.faulty, fault("HANG", "step", after=20), fault("HANG", "WorkerService/GetLoad"))
        self.ask_all()
        self.assertGreater(self.moved(reason="hung"), before)

    def test_messages_are_damaged(self):
        before = self.moved(reason="damaged")
        hits = 0
        for after in range(0, 24, 4):
            set_faults(self.faulty, fault("CORRUPT", STREAM, after=after, times=2))
            self.ask_all()
            hits += sum(set_faults(self.faulty))
        moved = self.moved(reason="damaged") - before
        print(f"{hits} messages were damaged, {moved:.0f} answers moved")
        self.assertGreater(moved, 0)
        self.assertLessEqual(moved, hits)  # some are of streams that have left already

    def test_the_store_answers_damaged(self):
        worker = self.cluster.worker
        unusable = lambda: sum(w.metric("clamor_worker_retrieval_requests_total", outcome=outcome)
                               for w in self.cluster.workers for outcome in ("invalid", "error"))
        before = unusable()
        set_faults(self.cluster.retrieval, fault("CORRUPT", "RetrievalService/Lookup"))
        for question, expected in zip(QUESTIONS, self.expected):
            self.assertEqual(Client(self.cluster.gateway).ask(question, nodes=16, **LONG).ids, expected)
        self.assertGreater(set_faults(self.cluster.retrieval)[0], 0)
        self.assertGreater(unusable(), before)
        self.assertTrue(worker.alive())

    def test_the_store_is_slow(self):
        slow = fault("SLOW", "RetrievalService/Lookup", seconds=0.3)
        set_faults(self.cluster.retrieval, slow)

        def met():
            self.assertEqual(Client(self.cluster.gateway).ask(QUESTIONS[0], nodes=16, **LONG).ids, self.expected[0])
            return set_faults(self.cluster.retrieval, slow)[0]

        wait_until(met, "a look-up meets it")  # a worker whose breaker is open asks nobody

    def test_a_workers_connection_breaks(self):
        before = self.moved(reason="died")
        set_faults(self.faulty, fault("DROP", STREAM, after=10, times=1))
        self.ask_all()
        self.assertGreater(self.moved(reason="died"), before)
        self.assertEqual(set_faults(self.faulty), [1])

    def test_a_clients_connection_breaks(self):
        gateway = self.cluster.gateway
        set_faults(gateway, fault("DROP", "GenerationService/StreamGenerate", after=10, times=1))
        stream = Stream(Client(gateway).start(QUESTIONS[0], nodes=0, **LONG))
        self.assertEqual(refusal_of(stream.answer).code, grpc.StatusCode.UNAVAILABLE)
        self.assertLess(stream.tokens, len(self.expected[0]))
        ids, _, _ = Client(gateway).resume(stream.started.request_id, stream.tokens)
        self.assertEqual(ids, self.expected[0][stream.tokens:])

    def test_the_disk_of_sessions_is_full(self):
        gateway = self.cluster.gateway
        talker = Client(gateway)
        name = "full-disk"
        talker.create_session(name)
        client.collect(talker.say(name, "one", **SHORT))
        for turns in range(1, 5):  # again and again
            set_faults(gateway, fault("FULL_DISK", "disk"))
            for _ in range(3):
                refusal = refusal_of(lambda: client.collect(talker.say(name, "two", **SHORT)))
                self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"))
            answer = talker.ask(QUESTIONS[0], **LONG)  # nothing but sessions needs the disk
            self.assertEqual((answer.ids, answer.started.resumable), (self.expected[0], False))
            self.assertEqual(len(talker.turns(name)), turns)
            set_faults(gateway)
            # As soon as there is room, not when somebody has looked for it.
            self.assertEqual(client.collect(talker.say(name, "three", **SHORT)).finished.session_version, turns + 1)
        self.assertEqual(len(talker.turns(name)), 5)

    def test_a_gateway_dies_in_the_middle_of_a_write(self):
        for after in (30, 31, 33, 37):
            gateway = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--sessions",
                                       self.cluster.folder / f"torn-{after}", label=f"-torn-{after}").wait_ready()
            names = [f"session-{i}" for i in range(4)]
            for name in names:
                Client(gateway).create_session(name)
            set_faults(gateway, fault("KILL", "disk", after=after))
            talk = Talk(gateway, names)
            gateway.process.wait(SECONDS)
            talk.end()
            self.assertGreater(talk.turns(), 0)
            gateway.start().wait_ready()
            for name, acknowledged in talk.acknowledged.items():
                kept = [(turn.version, list(turn.answer.token_ids), turn.answer.text) for turn in Client(gateway).turns(name)]
                self.assertEqual(kept[:len(acknowledged)], acknowledged)
                self.assertLessEqual(len(kept), len(acknowledged) + 1)

    def document(self, number, **fields):
        space = retrieval.Namespace(tenant="writer", tokenizer_fingerprint="ab")
        return retrieval.Document(namespace=space, id=f"{number}", tokens=range(number, number + 50), **fields)

    def append(self, number, **fields):
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(self.cluster.retrieval))
        return stub.Append(retrieval.AppendRequest(documents=[self.document(number, **fields)]), timeout=SECONDS).outcomes[0]

    def documents(self):
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(self.cluster.retrieval))
        return stub.GetStats(retrieval.GetStatsRequest(tenant="writer"), timeout=SECONDS).documents

    def test_the_disk_of_the_store_is_full(self):
        before = self.documents()
        self.assertEqual(self.append(1), retrieval.APPEND_OUTCOME_STORED)
        set_faults(self.cluster.retrieval, fault("FULL_DISK", "disk"))
        refusal = refusal_of(lambda: self.append(2))
        self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"))
        self.assertEqual(Client(self.cluster.gateway).ask(QUESTIONS[0], nodes=16, **LONG).ids, self.expected[0])
        set_faults(self.cluster.retrieval)

        def again():
            try:
                return self.append(2)
            except grpc.RpcError as error:
                self.assertEqual(client.read_refusal(error).reason, "STORE_FULL")

        self.assertEqual(wait_until(again, "there is room again"), retrieval.APPEND_OUTCOME_STORED)
        self.assertEqual(self.append(1), retrieval.APPEND_OUTCOME_UNCHANGED)
        self.assertEqual(self.documents(), before + 2)

    def test_the_clock_of_the_store_is_fast(self):
        before = self.documents()
        self.append(100, ttl_seconds=3600)
        self.append(101)
        set_faults(self.cluster.retrieval, fault("CLOCK_SKEW", seconds=-7200))
        self.append(102, ttl_seconds=3600)  # expired already, once the clock is right
        self.assertEqual(self.documents(), before + 3)
        set_faults(self.cluster.retrieval)
        wait_until(lambda: self.documents() == before + 2, "what was stored with a slow clock is gone")
        set_faults(self.cluster.retrieval, fault("CLOCK_SKEW", seconds=7200))
        wait_until(lambda: self.documents() == before + 1, "what has expired is gone")
        self.assertEqual(self.append(101), retrieval.APPEND_OUTCOME_UNCHANGED)

    def test_the_clock_of_a_gateway_jumps(self):
        keys = self.cluster.folder / "keys"
        keys.write_text(f"key {hashlib.sha256(b'secret').hexdigest()} frugal\n"
                        "tenant frugal tokens-per-second=200 burst-tokens=300\n")
        gateway = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--sessions",
                                   self.cluster.folder / "jumps", "--session-ttl", 3600, "--api-keys", keys,
                                   label="-jumps").wait_ready()
        talker = Client(gateway)
        talker.metadata = [("authorization", "Bearer secret")]

        def exists(name):
            try:
                request = client.session.GetSessionRequest(name=name)
                return talker.sessions.GetSession(request, metadata=talker.metadata).session.name == name
            except grpc.RpcError as error:
                self.assertEqual(client.read_refusal(error).reason, "SESSION_NOT_FOUND")
                return False

        def spend():
            """Until the tenant is out of tokens."""
            while True:
                try:
                    talker.ask("Hello", max_tokens=100, ignore_eos=True)
                except grpc.RpcError as error:
                    return self.assertEqual(client.read_refusal(error).reason, "TENANT_QUOTA")

        def served():
            try:
                return talker.ask("Hello", max_tokens=100, ignore_eos=True)
            except grpc.RpcError as error:
                self.assertEqual(client.read_refusal(error).reason, "TENANT_QUOTA")

        talker.create_session("kept")
        spend()
        for seconds in (-7200, 0, 7200):  # slow, right again, fast
            set_faults(gateway, fault("CLOCK_SKEW", seconds=seconds))
            self.assertEqual(exists("kept"), seconds <= 0)
            wait_until(served, "the tenant gets tokens again", seconds=10)
            spend()
        talker.create_session("of-the-future")
        set_faults(gateway)
        self.assertTrue(exists("of-the-future"))

    def test_faults_from_the_start(self):
        store = self.cluster.add("clamor-retrieval", "--store", self.cluster.folder / "faulty-store", label="-faulty",
                                 environment={"CLAMOR_FAULTS": "faults { kind: FAULT_KIND_SLOW place: 'GetStats' seconds: 0.01 }"})
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(store))
        stub.GetStats(retrieval.GetStatsRequest(), timeout=SECONDS)
        self.assertEqual(set_faults(store), [1])


if __name__ == "__main__":
    main()
