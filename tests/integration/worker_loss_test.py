"""kill -9 of the only worker: clients learn it at once, with the reason, and are served again once it is back."""
import time

import grpc

from client import Client, QUESTIONS, Stream, read_refusal, refusal_of
from cluster import ClusterTest, main, wait_until

PROMPT = QUESTIONS[0]


class WorkerLossTest(ClusterTest):

    def assert_no_worker(self, refusal):
        self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.UNAVAILABLE, "NO_WORKER"), refusal)

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
            self.assert_no_worker(read_refusal(raised.exception))
        print(f"the streams ended {time.monotonic() - killed:.3f} s after the kill")
        self.assertLess(time.monotonic() - killed, 2)

        for ask in (Client(gateway).ask, Client(gateway).ask_unary):
            asked = time.monotonic()
            self.assert_no_worker(refusal_of(lambda: ask(PROMPT, max_tokens=5)))
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


if __name__ == "__main__":
    main()
