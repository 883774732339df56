"""kill -9 of the only worker: clients learn it soon, with the reason, and are served again once it is back; streams go on
if it is back in time."""
import time

import grpc

from client import Client, QUESTIONS, Stream, read_refusal, refusal_of
from cluster import SECONDS, ClusterTest, main, wait_until

PROMPT = QUESTIONS[0]


class WorkerLossTest(ClusterTest):

    gateway_flags = ("--failover-wait", "0.5")

    def assert_unavailable(self, refusal, reason="NO_WORKER"):
        self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.UNAVAILABLE, reason), refusal)

    def test_kill_in_the_middle(self):
        gateway, worker = self.cluster.gateway, self.cluster.worker
        expected = Client(gateway).ask(PROMPT, max_tokens=60).ids
        info = Client(gateway).ask(PROMPT, max_tokens=1).started.model_revision

        streams = [Stream(Client(gateway).start(PROMPT, max_tokens=800, ignore_eos=True, nodes=0)) for _ in range(3)]
        wait_until(lambda: all(stream.tokens > 5 for stream in streams), "the streams have begun")
        killed = time.monotonic()
        worker.kill()
        for stream in streams:
            with self.assertRaises(grpc.RpcError) as raised:
                stream.answer()
            self.assert_unavailable(read_refusal(raised.exception), "NO_COMPATIBLE_WORKER")
        print(f"the streams ended {time.monotonic() - killed:.3f} s after the kill")
        self.assertLess(time.monotonic() - killed, 2)

        for ask in (Client(gateway).ask, Client(gateway).ask_unary):
            asked = time.monotonic()
            self.assert_unavailable(refusal_of(lambda: ask(PROMPT, max_tokens=5)))
            self.assertLess(time.monotonic() - asked, 2)
        wait_until(lambda: gateway.get("/readyz")[0] == 503, "the gateway is not ready", seconds=2)
        self.assertEqual(gateway.metric("clamor_gateway_worker_up", worker=worker.address), 0)

        worker.start().wait_ready()
        restarted = time.monotonic()
        gateway.wait_ready()
        print(f"the gateway was ready {time.monotonic() - restarted:.3f} s after the worker")
        answer = Client(gateway).ask(PROMPT, max_tokens=60)
        self.assertEqual((answer.ids, answer.started.model_revision), (expected, info))
        self.assertEqual(gateway.metric("clamor_gateway_worker_up", worker=worker.address), 1)

    def test_back_in_time(self):
        patient = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--failover-wait", SECONDS)
        patient.wait_ready()
        fields = dict(max_tokens=600, ignore_eos=True)
        expected = Client(patient).ask(PROMPT, **fields)
        streams = [Stream(Client(patient).start(PROMPT, nodes=0, **fields)) for _ in range(3)]
        wait_until(lambda: all(stream.tokens > 5 for stream in streams), "the streams have begun")
        self.cluster.worker.kill()
        self.assertTrue(all(stream.running() for stream in streams))
        self.cluster.worker.start()
        for stream in streams:
            answer = stream.answer()
            self.assertEqual((answer.ids, answer.text), (expected.ids, expected.text))
        self.assertEqual(patient.metric("clamor_gateway_failovers_total", reason="died", outcome="moved"), 3)


if __name__ == "__main__":
    main()
