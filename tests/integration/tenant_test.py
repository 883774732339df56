"""Tenants apart: what one asks changes nothing of what another gets; what is deleted is gone; logs tell no secrets."""
import secrets

import client
from client import Client, QUESTIONS, prompt
from cluster import Cluster, ClusterTest, SECONDS, main, wait_until

# The same budget in every step, whatever a step takes, and the same noise to fill trails with.
FIXED = dict(max_tokens=60, ignore_eos=True, nodes=16, seed=1)


def seen_by(tenant, gateway, **fields):
    """All that a tenant could notice of others but for time: ids, text, and who drafted each token."""
    seen = []
    for question in QUESTIONS[:3]:
        answer = Client(gateway, tenant).ask(question, **FIXED, **fields)
        speculation = answer.finished.speculation
        seen.append((answer.ids, answer.text, answer.sources, speculation.forwards, speculation.draft_nodes,
                     answer.started.cached_tokens))
    return seen


class IsolationTest(ClusterTest):
    worker_flags = ("--threads", "1", "--max-sequences", "4")

    def test_nothing_that_a_does_changes_what_b_gets(self):
        alone = seen_by("b", self.cluster.gateway, store=False)
        # A second cluster, where A has asked the same and more, and has stored it, before and between.
        other = Cluster(self.worker_flags)
        try:
            for question in QUESTIONS[:5]:
                Client(other.gateway, "a").ask(question, **FIXED)
            wait_until(lambda: stats(other.retrieval, "a").documents == 5, "A's answers are stored")
            again = seen_by("a", other.gateway)
            self.assertNotEqual([entry[3] for entry in again], [entry[3] for entry in alone])  # A has learned: it could show
            self.assertEqual([entry[0] for entry in again], [entry[0] for entry in alone])
            self.assertEqual(seen_by("b", other.gateway, store=False), alone)
            # What the store answers B has nothing of A's.
            ids = Client(other.gateway).tokenize(QUESTIONS[0])
            self.assertGreater(lookup(other, "a", ids).match_length, 0)
            self.assertEqual(lookup(other, "b", ids).match_length, 0)
        finally:
            other.stop()


class DeletionTest(ClusterTest):
    worker_flags = ("--threads", "1", "--state", "STATE")

    def test_deleted_is_gone_everywhere(self):
        gateway, retrieval = self.cluster.gateway, self.cluster.retrieval
        ids = Client(gateway).tokenize(QUESTIONS[7])
        needle = b"".join(token.to_bytes(4, "little") for token in ids[-8:])
        for tenant in ("a", "b"):
            first = Client(gateway, tenant).ask(ids, **FIXED)
            self.assertEqual(first.started.cached_tokens, 0)
            self.assertGreater(Client(gateway, tenant).ask(ids, **FIXED).started.cached_tokens, 0)
            wait_until(lambda: stats(retrieval, tenant).documents == 1, "it is stored")
        self.assertGreater(lookup(self.cluster, "a", ids).match_length, 0)
        self.assertTrue(self.files_with(needle))

        admin = client.admin_grpc.AdminServiceStub(client.connect(gateway))
        for tenant in ("a", "b"):
            response = admin.DeleteTenant(client.admin.AdminServiceDeleteTenantRequest(tenant=tenant), timeout=SECONDS)
            self.assertTrue(response.complete, response)
            self.assertEqual({place.place for place in response.places}, {"gateway", self.cluster.worker.address})
            self.assertEqual(sum(place.documents for place in response.places), 1)
            self.assertEqual(stats(retrieval, tenant).documents, 0)
            self.assertEqual(lookup(self.cluster, tenant, ids).match_length, 0)
            if tenant == "a":
                self.assertGreater(lookup(self.cluster, "b", ids).match_length, 0)  # B's is there
        self.assertEqual(self.files_with(needle), [])
        again = Client(gateway, "a").ask(ids, store=False, **FIXED)
        self.assertEqual(again.started.cached_tokens, 0)
        self.assertEqual(again.ids, first.ids)

    def files_with(self, needle):
        return [path for path in self.cluster.folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


class LogTest(ClusterTest):

    def test_no_prompt_and_no_answer_is_in_a_log(self):
        gateway = self.cluster.gateway
        canary = f"canary {secrets.token_hex(8)}"
        answer = Client(gateway, "a").ask(canary, **FIXED)
        Client(gateway, "a").ask([("user", canary)], **FIXED)
        for wrong in (dict(max_tokens=10 ** 6), dict(stop=[""]), dict(json_schema=f'{{"{canary}": 1}}')):
            client.refusal_of(lambda: Client(gateway, "a").ask(canary, **wrong))
        wait_until(lambda: stats(self.cluster.retrieval, "a").documents == 2, "they are stored")
        logs = "".join(server.log.read_text(errors="replace") for server in self.cluster.servers)
        self.assertIn("event=request", logs)
        self.assertNotIn(canary.split()[1], logs)
        self.assertNotIn(answer.text[:20], logs)


def stats(server, tenant):
    return client.retrieval_grpc.RetrievalServiceStub(client.connect(server)).GetStats(
        client.retrieval.GetStatsRequest(tenant=tenant), timeout=SECONDS)


def lookup(cluster, tenant, ids):
    info = Client(cluster.gateway).models.GetModelInfo(client.model.GetModelInfoRequest(), timeout=SECONDS).model
    query = client.retrieval.LookupQuery(
        namespace=client.retrieval.Namespace(tenant=tenant, tokenizer_fingerprint=info.tokenizer_fingerprint), context=ids)
    return client.retrieval_grpc.RetrievalServiceStub(client.connect(cluster.retrieval)).Lookup(
        client.retrieval.LookupRequest(queries=[query]), timeout=SECONDS).tries[0]


if __name__ == "__main__":
    main()
