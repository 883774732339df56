"""Gateways are lost with sessions open and streams under way, and Redis with them: what was acknowledged is there, and
streams go on elsewhere with the same ids.

CLAMOR_OPEN_SESSIONS (12 if unset) sessions are open when a gateway is killed.
"""
import os
import re
import shutil
import subprocess
import threading

import grpc

import client
import redis_process
from client import Client, QUESTIONS, Stream, generation, options, prompt, refusal_of
from cluster import SECONDS, ClusterTest, main, wait_until

SESSIONS = int(os.environ.get("CLAMOR_OPEN_SESSIONS", "12"))
TALKERS = min(SESSIONS, 8)  # at once
SHORT = dict(max_tokens=8, ignore_eos=True, temperature=0.8)
LONG = dict(max_tokens=150, ignore_eos=True, temperature=0.9, top_p=0.95)


class Talk:
    """Talkers who go on saying something in sessions until they are told to stop or their gateway is gone."""

    def __init__(self, gateway, names):
        self.acknowledged = {name: [] for name in names}  # of each turn: version, ids, text
        self.stopping = False
        self._threads = [threading.Thread(target=self._talk, args=(gateway, names[i::TALKERS]), daemon=True)
                         for i in range(TALKERS)]
        for thread in self._threads:
            thread.start()

    def _talk(self, gateway, names):
        talker = Client(gateway)
        try:
            while not self.stopping:
                for name in names:
                    turns = self.acknowledged[name]
                    answer = client.collect(talker.say(name, QUESTIONS[len(turns) % 40][:60],
                                                       expected_version=len(turns), **SHORT))
                    turns.append((answer.finished.session_version, answer.ids, answer.text))
        except grpc.RpcError as error:
            self.ended = error

    def turns(self):
        return sum(len(turns) for turns in self.acknowledged.values())

    def end(self):
        self.stopping = True
        for thread in self._threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in self._threads), "somebody still talks"


class SessionTest(ClusterTest):

    def gateway(self, label, sessions, **fields):
        gateway = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--sessions", sessions,
                                   label=f"-{self._testMethodName}-{label}", **fields)
        return gateway.wait_ready()

    def redis(self, **fields):
        if not redis_process.installed():
            self.skipTest(redis_process.MISSING)
        redis = redis_process.Redis(self.cluster.folder / f"redis-{self._testMethodName}", **fields)
        self.addCleanup(redis.kill)
        return redis

    def talk_until_killed(self, gateway, also=lambda: None):
        """What had been acknowledged when the gateway was killed in the middle of answers."""
        names = [f"session-{i}" for i in range(SESSIONS)]
        for name in names:
            Client(gateway).create_session(name)
        talk = Talk(gateway, names)
        wait_until(lambda: all(talk.acknowledged.values()), "everybody has said something")
        turns = talk.turns()
        wait_until(lambda: talk.turns() > turns + SESSIONS // 2, "they go on")
        gateway.kill()
        also()
        talk.end()
        return talk

    def check_kept(self, gateway, talk):
        reader = Client(gateway)
        more = 0
        for name, acknowledged in talk.acknowledged.items():
            turns = reader.turns(name)
            kept = [(turn.version, list(turn.answer.token_ids), turn.answer.text) for turn in turns]
            self.assertEqual(kept[:len(acknowledged)], acknowledged)
            self.assertLessEqual(len(kept), len(acknowledged) + 1)  # one may be there of which nobody has heard
            more += len(kept) - len(acknowledged)
            self.assertEqual([turn.version for turn in turns], list(range(1, len(turns) + 1)))
        name, acknowledged = next(iter(talk.acknowledged.items()))
        version = reader.sessions.GetSession(client.session.GetSessionRequest(name=name)).session.version
        self.assertEqual(client.collect(reader.say(name, "go on", **SHORT)).finished.session_version, version + 1)
        stale = refusal_of(lambda: client.collect(reader.say(name, "late", expected_version=version, **SHORT)))
        self.assertEqual((stale.code, stale.reason), (grpc.StatusCode.ABORTED, "SESSION_VERSION_CONFLICT"))
        print(f"{SESSIONS} sessions, {talk.turns()} turns acknowledged, all there; {more} more had not been heard of")

    def test_a_killed_gateway_comes_back(self):
        gateway = self.gateway("", self.cluster.folder / self._testMethodName)
        talk = self.talk_until_killed(gateway)
        gateway.start().wait_ready()
        self.check_kept(gateway, talk)
        self.assertEqual(gateway.metric("clamor_gateway_sessions"), SESSIONS)

    def test_another_gateway_has_it_all(self):
        redis = self.redis()
        one, other = self.gateway("one", redis.url), self.gateway("other", redis.url)
        talk = self.talk_until_killed(one, also=redis.kill)
        redis.start()
        self.check_kept(other, talk)
        one.start()  # so that it can be stopped

    def streams_survive(self, first, second, after_the_kill):
        """Streams that lose gateway `first` go on at `second`."""
        kinds = [(QUESTIONS[0], dict(LONG, temperature=0)), (QUESTIONS[1], LONG), (QUESTIONS[2], dict(LONG, seed=7)),
                 ([("user", QUESTIONS[3])], dict(LONG, stop=["zebra"], top_logprobs=1))]
        Client(first).create_session("s")
        calls = [Client(first).start(text, nodes=0, **fields) for text, fields in kinds]
        calls.append(Client(first).say("s", QUESTIONS[4], nodes=0, **LONG))
        kinds.append(([("user", QUESTIONS[4])], LONG))
        streams = [Stream(call) for call in calls]
        wait_until(lambda: all(stream.tokens > 10 for stream in streams), "the streams have begun")
        first.kill()
        for stream in streams:
            self.assertEqual(refusal_of(stream.answer).code, grpc.StatusCode.UNAVAILABLE)
        after_the_kill()
        resumer = Client(second)
        for stream, (text, fields) in zip(streams, kinds):
            self.assertTrue(stream.started.resumable)
            stream_id = stream.started.request_id
            whole = Client(second).ask(text, **dict(fields, seed=stream.started.seed))
            for tokens in (0, 1, stream.tokens, len(whole.ids)):
                ids, rest, finished = resumer.resume(stream_id, tokens)
                self.assertEqual((ids, rest), (whole.ids[tokens:], whole.text))
                self.assertEqual(finished.usage.completion_tokens, len(whole.ids))
        turns = resumer.turns("s")
        self.assertEqual(len(turns), 1)  # by all those calls together
        self.assertEqual((list(turns[0].answer.token_ids), turns[0].answer.text), (whole.ids, whole.text))
        self.assertEqual(finished.session_version, 1)
        unknown = [refusal_of(lambda: Client(second, tenant="other").resume(stream_id)), refusal_of(lambda: resumer.resume("0" * 16))]
        for refusal in unknown:
            self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.NOT_FOUND, "STREAM_NOT_FOUND"))

    def test_streams_go_on_after_a_restart(self):
        gateway = self.gateway("", self.cluster.folder / self._testMethodName)
        self.streams_survive(gateway, gateway, lambda: gateway.start().wait_ready())

    def test_streams_go_on_elsewhere(self):
        redis = self.redis()
        one, other = self.gateway("one", redis.url), self.gateway("other", redis.url)
        self.streams_survive(one, other, lambda: None)
        one.start()

    def test_an_outage_of_redis(self):
        redis = self.redis()
        gateway = self.gateway("", redis.url)
        asker = Client(gateway)
        asker.create_session("s")
        redis.kill()
        answer = asker.ask(QUESTIONS[0], **SHORT)  # nothing but sessions needs it
        self.assertFalse(answer.started.resumable)
        refusal = refusal_of(lambda: client.collect(asker.say("s", "hello", **SHORT)))
        self.assertEqual((refusal.code, refusal.reason, refusal.retry), (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", True))
        redis.start()

        def back():
            try:
                return client.collect(asker.say("s", "hello", **SHORT))
            except grpc.RpcError:
                return None

        self.assertEqual(wait_until(back, "the session goes on").finished.session_version, 1)
        self.assertTrue(asker.ask(QUESTIONS[0], **SHORT).started.resumable)

    def test_who_may_forget_is_warned_of(self):
        forgetful = self.redis(appendfsync="everysec")
        gateway = self.gateway("", forgetful.url)
        self.assertIn("event=session_store_not_durable appendonly=yes appendfsync=everysec", gateway.log.read_text())

    def test_synced_before_it_is_acknowledged(self):
        if shutil.which("strace") is None:
            self.skipTest("NOT TESTED: there is no strace; install Debian's")
        gateway = self.gateway("", self.cluster.folder / self._testMethodName)
        trace = self.cluster.folder / "strace"
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-s", "1000000", "-e", "trace=fsync,fdatasync,sendmsg", "-o", trace,
                                   "-p", str(gateway.process.pid)], stderr=subprocess.PIPE, text=True)
        self.addCleanup(tracer.communicate)
        self.addCleanup(tracer.kill)
        talker = Client(gateway)

        def traced():
            if tracer.poll() is not None:
                self.skipTest(f"NOT TESTED: strace may not trace here: {tracer.stderr.read().strip()}")
            talker.sessions.ListSessions(client.session.ListSessionsRequest(), timeout=SECONDS)
            return trace.exists() and "sendmsg" in trace.read_text(errors="replace")

        wait_until(traced, "the gateway is traced")
        messages = {}  # how many have it, by what is found in them; the last is the acknowledgement
        for i in range(SESSIONS):
            name = f"traced-{i:04}"
            talker.create_session(name)
            messages[name] = 1
            request = generation.ChatRequest(session=generation.SessionTurn(name=name, expected_version=0),
                                             options=options(**SHORT), **prompt([("user", QUESTIONS[i % 40][:60])]))
            answer = talker.generation.Chat(request, timeout=SECONDS).answers[0]
            self.assertEqual(answer.finished.session_version, 1)
            messages[answer.started.request_id] = 2  # the first goes to the worker
        tracer.terminate()
        tracer.wait()
        syncs, sent = 0, dict.fromkeys(messages, 0)
        needles = re.compile("|".join(messages))
        for line in trace.read_text(errors="replace").splitlines():
            if re.search(r"\b(fsync|fdatasync)\b.* = 0", line):
                syncs += 1
            for found in set(needles.findall(line)) if "sendmsg(" in line else ():
                sent[found] += 1
                if sent[found] == messages[found]:
                    self.assertGreaterEqual(syncs, 1, f"{found} was acknowledged before it was synced")
                syncs = 0
        self.assertEqual(sent, messages)
        print(f"{SESSIONS} sessions and {SESSIONS} turns were synced before they were acknowledged")


if __name__ == "__main__":
    main()
