"""SIGTERM: not ready at once, new work refused, running streams finish, exit with 0 within the grace time."""
import threading
import time

import grpc

import client
from client import Client, QUESTIONS, Stream, health, refusal_of
from cluster import ClusterTest, main, wait_until

LONG = dict(max_tokens=700, ignore_eos=True, nodes=0)


class HealthWatch:
    """Every state that one Watch has told, until its end."""

    def __init__(self, server):
        self.states = []
        self._watch = client.health_grpc.HealthStub(client.connect(server)).Watch(health.HealthCheckRequest(), timeout=client.SECONDS)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: self.states == [health.HealthCheckResponse.SERVING], "the watch has begun")

    def _read(self):
        try:
            for reply in self._watch:
                self.states.append(reply.status)
        except grpc.RpcError:
            pass  # the server is gone

    def told_not_serving(self):
        return self.states[1:] == [health.HealthCheckResponse.NOT_SERVING]


class DrainTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.expected = Client(cls.cluster.gateway).ask(QUESTIONS[0], **{**LONG, "nodes": 16}).ids

    def setUp(self):
        for server in self.cluster.servers:
            if not server.alive():
                server.start().wait_ready()
        self.cluster.gateway.wait_ready()
    def drain(self, server, while_draining):
        """SIGTERM with three streams under way."""
        watch = HealthWatch(server)
        streams = [Stream(Client(self.cluster.gateway).start(QUESTIONS[0], **LONG)) for _ in range(3)]
        wait_until(lambda: all(stream.tokens > 5 for stream in streams), "the streams have begun")
        signalled = time.monotonic()
        server.terminate()
        wait_until(lambda: not server.ready(), "/readyz says so", seconds=2)
        while_draining()
        self.assertTrue(all(stream.running() for stream in streams))
        for stream in streams:
            self.assertEqual(stream.answer().ids, self.expected)
        self.assertEqual(server.wait_exit(), 0)
        self.assertTrue(watch.told_not_serving(), watch.states)
        print(f"{server.name} stopped {time.monotonic() - signalled:.2f} s after SIGTERM")

    def test_gateway(self):
        def while_draining():
            self.assertEqual([self.cluster.gateway.get(path)[0] for path in ("/readyz", "/healthz")], [503, 200])
            # It has sent its clients away, GOAWAY, and lets none in.
            refusal = refusal_of(lambda: Client(self.cluster.gateway).ask(QUESTIONS[1]))
            self.assertEqual(refusal.code, grpc.StatusCode.UNAVAILABLE)

        self.drain(self.cluster.gateway, while_draining)

    def test_worker(self):
        def while_draining():
            self.assertEqual([self.cluster.worker.get(path)[0] for path in ("/readyz", "/healthz")], [503, 200])
            refusal = refusal_of(lambda: Client(self.cluster.gateway).ask(QUESTIONS[1]))
            self.assertEqual(refusal.code, grpc.StatusCode.UNAVAILABLE)
            self.assertIn(refusal.reason, ("DRAINING", "NO_WORKER"))  # as the worker says, once the gateway knows
            wait_until(lambda: not self.cluster.gateway.ready(), "the gateway has heard of it", seconds=2)

        self.drain(self.cluster.worker, while_draining)

    def test_retrieval(self):
        self.drain(self.cluster.retrieval, lambda: None)

    def test_the_grace_time_ends(self):
        hasty = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--grace", "0.05")
        stream = Stream(Client(hasty.wait_ready()).start(QUESTIONS[0], **{**LONG, "max_tokens": 800}))
        wait_until(lambda: stream.tokens > 5, "the stream has begun")
        signalled = time.monotonic()
        hasty.terminate()
        self.assertIn(refusal_of(stream.answer).code, (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))
        self.assertEqual(hasty.wait_exit(30), 0)
        self.assertLess(time.monotonic() - signalled, 2)


if __name__ == "__main__":
    main()
