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
        ids, speeds = [], []
        for tenant in ("four", "four", "five"):
            self.restart_worker()
            user = Client(self.cluster.gateway, tenant)
            # Of one seed, so that guesses made up from noise are the same each time.
            answers = [user.ask([("user", question)], max_tokens=128, ignore_eos=True, nodes=16, seed=1, store=False,
                                draft_scope=generation.DRAFT_SCOPE_NONE) for question in QUESTIONS[:6]]
            ids.append([answer.ids for answer in answers])
            speeds.append(6 * 128 / sum(answer.finished.speculation.forwards for answer in answers))
        cold, warm, other = speeds
        print(f"with --state: {cold:.2f} tokens per forward, {warm:.2f} after a restart, {other:.2f} of another tenant")
        self.assertEqual(ids[1:], ids[:1] * 2)
        self.assertGreater(warm, 1.02 * cold)
        self.assertEqual(other, cold, "tenants have files of their own")


if __name__ == "__main__":
    main()
