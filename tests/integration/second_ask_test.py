"""The same question twice: the first answer went to the store, so the second comes with fewer forwards, and is the same.

What the worker itself remembers (adjacency, calibration) warms up as well; two ways tell the store's share apart: a worker
started afresh in between, and requests that want nothing from the store."""
from client import Client, QUESTIONS, generation
from cluster import ClusterTest, main, wait_until

PROMPT = [("user", QUESTIONS[2])]


class SecondAskTest(ClusterTest):

    worker_flags = (*ClusterTest.worker_flags, "--lookup-timeout", "1000")  # a loaded machine is not what is tested

    def ask(self, tenant, **fields):
        return Client(self.cluster.gateway, tenant).ask(PROMPT, max_tokens=128, ignore_eos=True, **{"nodes": 16, **fields})

    def wait_stored(self, documents):
        worker = self.cluster.worker
        wait_until(lambda: worker.metric("clamor_worker_corpus_documents_total", outcome="stored") >= documents,
                   "the answer is in the store")

    def compare(self, what, first, second):
        store = second.finished.speculation.accepted.store
        print(f"{what}: {first.tokens_per_forward:.2f} tokens per forward, then {second.tokens_per_forward:.2f}; "
              f"{store} of {len(second.ids)} tokens from the store")
        self.assertEqual(second.ids, first.ids)

    def restart_worker(self):
        self.cluster.worker.terminate()
        self.assertEqual(self.cluster.worker.wait_exit(), 0)
        self.cluster.worker.start().wait_ready()
        self.cluster.gateway.wait_ready()

    def test_second_ask(self):
        self.assertEqual(self.ask("plain", nodes=0, store=False).ids, self.ask("plain", nodes=16, store=False).ids)

        first = self.ask("one")
        self.wait_stored(1)
        second = self.ask("one")
        self.compare("asked again", first, second)
        self.assertEqual(first.finished.speculation.accepted.store, 0)
        self.assertGreater(second.finished.speculation.accepted.store, 0)
        self.assertGreater(second.tokens_per_forward, 1.2 * first.tokens_per_forward)

        without = [self.ask("two", draft_scope=generation.DRAFT_SCOPE_NONE) for _ in range(2)]
        self.compare("asked again without the store", *without)
        self.assertEqual(without[1].finished.speculation.accepted.store, 0)
        self.assertGreater(second.tokens_per_forward, without[1].tokens_per_forward)

        other = self.ask("three")
        self.compare("asked by another tenant", first, other)
        self.assertEqual(other.finished.speculation.accepted.store, 0)

        self.restart_worker()
        cold = self.ask("one")
        self.compare("asked again of a new worker", first, cold)
        self.assertGreater(cold.finished.speculation.accepted.store, 0)
        self.assertGreater(cold.tokens_per_forward, 1.2 * first.tokens_per_forward)

    def test_state_survives_a_restart(self):
        flags = self.cluster.worker.flags
        self.addCleanup(setattr, self.cluster.worker, "flags", flags)
        self.cluster.worker.flags = [*flags, "--state", str(self.cluster.folder / "state")]
        asks = []
        for tenant in ("four", "four", "five"):
            self.restart_worker()
            asks.append(self.ask(tenant, draft_scope=generation.DRAFT_SCOPE_NONE, store=False))
        cold, warm, other = asks
        self.compare("with --state, asked again of a new worker", cold, warm)
        self.assertGreater(warm.tokens_per_forward, 1.1 * cold.tokens_per_forward)
        self.assertEqual(other.tokens_per_forward, cold.tokens_per_forward, "tenants have files of their own")


if __name__ == "__main__":
    main()
