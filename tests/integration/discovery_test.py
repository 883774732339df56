"""Workers come and go under a gateway that finds them by a name or in a file: who is new gets requests, who is gone gets none
and loses no stream, and nobody restarts anything."""
import client
import dns_server
from client import Client, QUESTIONS, Stream
from cluster import ClusterTest, main, wait_until

NAME = "workers.clamor.test"
ANSWER = dict(max_tokens=20, ignore_eos=True)
LONG = dict(max_tokens=300, ignore_eos=True, nodes=0)


class DiscoveryTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # A name has one port and many addresses: a second worker on the port of the first.
        cls.first = cls.cluster.worker
        cls.port = cls.first.address.rsplit(":", 1)[1]
        cls.second = cls.cluster.new("clamor-worker", *cls.first.flags, label="-second")
        cls.second.address = f"127.0.0.2:{cls.port}"
        cls.second.start().wait_ready()

    def workers(self, gateway):
        """Addresses of those that the gateway knows and that are ready."""
        status = Client(gateway).models.GetStatus(client.model.GetStatusRequest())
        return {worker.address for worker in status.workers if worker.state == client.model.WORKER_STATE_READY}

    def check_follows(self, gateway, set_workers):
        """Through `set_workers`, which takes a list of servers."""
        asker = Client(gateway)
        set_workers([self.first])
        gateway.wait_ready()
        self.assertEqual(self.workers(gateway), {self.first.address})
        expected = asker.ask(QUESTIONS[0], **LONG).ids
        set_workers([self.first, self.second])
        wait_until(lambda: self.workers(gateway) == {self.first.address, self.second.address}, "the new one is met")
        streams = [Stream(asker.start(QUESTIONS[0], **LONG)) for _ in range(4)]
        wait_until(lambda: all(stream.tokens > 0 for stream in streams), "the streams have begun")
        set_workers([self.second])
        wait_until(lambda: self.workers(gateway) == {self.second.address}, "who is gone is forgotten")
        for stream in streams:
            self.assertEqual(stream.answer().ids, expected)
        # A client may have its last token before the worker has counted it.
        wait_until(lambda: self.second.metric("clamor_requests_running") == 0, "the worker is idle")
        before = self.second.metric("clamor_generated_tokens_total")
        self.assertEqual(asker.ask(QUESTIONS[0], **LONG).ids, expected)
        wait_until(lambda: self.second.metric("clamor_generated_tokens_total") == before + len(expected), "it answered")
        _, metrics = gateway.get("/metrics")
        self.assertIn(f'clamor_gateway_worker_up{{worker="{self.second.address}"}} 1', metrics)
        self.assertNotIn(f'worker="{self.first.address}"', metrics)

    def test_by_name(self):
        try:
            names = dns_server.DnsServer(NAME)
        except OSError:
            self.skipTest(dns_server.MISSING)
        self.addCleanup(names.close)
        within = dns_server.within(self.cluster.folder)
        if within is None:
            self.skipTest(dns_server.MISSING)
        names.error = dns_server.NO_SUCH_NAME
        gateway = self.cluster.add("clamor-gateway", "--workers", f"dns:///{NAME}:{self.port}", label="-by-name", within=within)
        self.assertEqual(client.refusal_of(lambda: Client(gateway).ask("x", **ANSWER)).reason, "NO_WORKER")

        def set_workers(workers):
            names.error = dns_server.NO_ERROR
            names.addresses = [worker.address.rsplit(":", 1)[0] for worker in workers]

        self.check_follows(gateway, set_workers)
        names.error = dns_server.SERVER_FAILURE  # what is known stays
        asked = names.asked
        wait_until(lambda: names.asked >= asked + 2, "the gateway has asked again")
        self.assertEqual(self.workers(gateway), {self.second.address})
        self.assertEqual(len(Client(gateway).ask(QUESTIONS[0], **ANSWER).ids), 20)
        self.assertIn("event=workers_not_resolved", gateway.log.read_text())

    def test_by_file(self):
        path = self.cluster.folder / "workers"

        def set_workers(workers):
            new = path.with_suffix(".new")
            new.write_text("# workers\n" + "".join(f"{worker.address}\n" for worker in workers))
            new.rename(path)

        set_workers([])
        gateway = self.cluster.add("clamor-gateway", "--workers-file", path, label="-by-file")
        self.assertEqual(client.refusal_of(lambda: Client(gateway).ask("x", **ANSWER)).reason, "NO_WORKER")
        self.check_follows(gateway, set_workers)


if __name__ == "__main__":
    main()
