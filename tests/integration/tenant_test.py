"""Tenants apart: what one asks changes nothing of what another gets; what is deleted is gone; logs tell no secrets."""
import secrets
import struct

import grpc

import client
import redis_process
from client import Client, QUESTIONS
from cluster import Cluster, ClusterTest, SECONDS, main, wait_until

# The same budget in every step, whatever a step takes, and the same noise to fill trails with.
FIXED = dict(max_tokens=60, ignore_eos=True, nodes=16, seed=1)
SHORT = dict(max_tokens=8, ignore_eos=True)


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
        store_documents(self.cluster, "b", QUESTIONS[5:9])
        replies = replies_to(self.cluster, "b")
        self.assertGreater(max(client.retrieval.ContinuationTrie.FromString(reply).match_length for reply in replies), 8)
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
            # What the store answers B has nothing of A's, of B's all, bit for bit, and whatever becomes of A.
            self.assertGreater(lookup(other, "a", Client(other.gateway).tokenize(QUESTIONS[0])).match_length, 0)
            self.assertEqual({reply for reply in replies_to(other, "b")}, {b""})
            store_documents(other, "b", QUESTIONS[5:7])
            store_documents(other, "a", QUESTIONS[5:20])
            store_documents(other, "b", QUESTIONS[7:9], first=2)
            store_documents(other, "a", reversed(QUESTIONS[5:20]))
            self.assertEqual(replies_to(other, "b"), replies)
            self.assertNotEqual(replies_to(other, "a"), replies)
            retrieval_of(other).DeleteTenant(client.retrieval.DeleteTenantRequest(tenant="a"), timeout=SECONDS)
            self.assertEqual(replies_to(other, "b"), replies)
        finally:
            other.stop()


def store_documents(cluster, tenant, texts, first=0):
    asker = Client(cluster.gateway)
    documents = [client.retrieval.Document(namespace=namespace(cluster, tenant), id=f"document-{i}", tokens=asker.tokenize(text))
                 for i, text in enumerate(texts, first)]
    for document in documents:
        retrieval_of(cluster).Append(client.retrieval.AppendRequest(documents=[document]), timeout=SECONDS)


def replies_to(cluster, tenant):
    """What the store answers to beginnings of all that anybody stored, as bytes."""
    contexts = [ids[:end] for ids in map(Client(cluster.gateway).tokenize, QUESTIONS[:20]) for end in (1, 3, 10, len(ids) - 1)]
    queries = [client.retrieval.LookupQuery(namespace=namespace(cluster, tenant), context=ids, min_match=1, max_nodes=64)
               for ids in contexts]
    tries = retrieval_of(cluster).Lookup(client.retrieval.LookupRequest(queries=queries), timeout=SECONDS).tries
    return [trie.SerializeToString(deterministic=True) for trie in tries]


def little_endian(ids):
    return b"".join(token.to_bytes(4, "little") for token in ids)


def packed(ids):
    """As protobuf packs them."""
    return client.generation.TokenIds(ids=ids).SerializeToString()[2:]


def in_segment(data, ids):
    """Whether a segment file has these ids one after the other (retrieval/token_text.h), wherever in a byte they begin."""
    prefix, documents, _, _, dictionary = struct.unpack_from("<5I", data, 8)
    begin = 48 + -(-prefix // 8) * 8 + 24 * documents
    codes = {token: code for code, token in enumerate(struct.unpack_from(f"<{dictionary}I", data, begin))}
    if not all(token in codes for token in ids):
        return False
    width = (dictionary - 1).bit_length()
    bits = sum(codes[token] << i * width for i, token in enumerate(ids))
    forms = ((bits << shift).to_bytes(4 * len(ids) + 1, "little")[shift > 0:(shift + width * len(ids)) // 8] for shift in range(8))
    return any(form in data for form in forms)


class DeletionTest(ClusterTest):
    """What DeleteTenant removes: everything, everywhere, but from copies that were made before. A canary of A is looked for
    as each place encodes it, and found in each before; B's, beside it, stay."""

    worker_flags = ("--threads", "1", "--state", "STATE")

    def setUp(self):
        self.folder = self.cluster.folder
        keeper = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--sessions",
                                  self.folder / "sessions", label="-keeper")
        self.gateways = {"sessions": keeper.wait_ready()}
        if redis_process.installed():
            redis = redis_process.Redis(self.folder / "redis")
            self.addCleanup(redis.kill)
            shared = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--sessions", redis.url,
                                      label="-shared")
            self.gateways["redis"] = shared.wait_ready()
        else:
            print(redis_process.MISSING)

    def restart(self, server):
        server.terminate()
        self.assertEqual(server.wait_exit(), 0)
        server.start().wait_ready()

    def test_deleted_is_gone_everywhere(self):
        canaries = {tenant: f"{tenant}'s canary {secrets.token_hex(12)}" for tenant in ("tenant-a", "tenant-b")}
        texts = {tenant: f"{QUESTIONS[7]} {canary}" for tenant, canary in canaries.items()}
        ids = {tenant: Client(self.cluster.gateway).tokenize(text) for tenant, text in texts.items()}
        for tenant in texts:
            self.leave_traces(tenant, texts[tenant], ids[tenant])
        wait_until(lambda: len(list((self.folder / "store/segments").glob("*.seg"))) >= 2, "large segments are files")
        self.restart(self.cluster.worker)  # which writes what drafting learned
        self.restart(self.cluster.retrieval)  # so that some of it is in table files
        retrieval_of(self.cluster).Checkpoint(client.retrieval.CheckpointRequest(name="before"), timeout=SECONDS)
        for tenant in texts:  # and some in the log, and in caches
            asker = Client(self.gateways["sessions"], tenant)
            wait_until(lambda: self.answers(asker, ids[tenant]), "the gateway has the worker again")
            self.assertGreater(asker.ask(ids[tenant], **FIXED).started.cached_tokens, 0)
            self.store_again(tenant, ids[tenant])
            self.assertGreater(lookup(self.cluster, tenant, ids[tenant][:-1]).match_length, 0)

        places = {"store/db log", "store/db table", "store/segments", "store.checkpoints/before table",
                  "store.checkpoints/before segments", "state", "sessions"} | set(self.gateways)
        last = {tenant: ids[tenant][-8:] for tenant in texts}
        needles = {tenant: (last[tenant], [canary.encode(), little_endian(last[tenant]), packed(last[tenant]), tenant.encode(),
                                           *self.learned(tenant)]) for tenant, canary in canaries.items()}
        for tenant in texts:
            self.assertLessEqual(places, self.places_of(needles[tenant]), tenant)

        for gateway in self.gateways.values():
            self.delete("tenant-a", gateway)
        # Redis writes its log anew in the background.
        wait_until(lambda: "redis" not in self.places_of(needles["tenant-a"]), "Redis has forgotten")
        retrieval_of(self.cluster).Checkpoint(client.retrieval.CheckpointRequest(name="after"), timeout=SECONDS)
        self.assertEqual({place for place in self.places_of(needles["tenant-a"]) if "before" not in place}, set())
        self.assertEqual(lookup(self.cluster, "tenant-a", ids["tenant-a"][:-1]).match_length, 0)
        self.assertGreater(lookup(self.cluster, "tenant-b", ids["tenant-b"][:-1]).match_length, 0)
        self.assertLessEqual(places - {"store/db log"}, self.places_of(needles["tenant-b"]))
        for gateway in self.gateways.values():
            asker = Client(gateway, "tenant-a")
            refusal = client.refusal_of(lambda: asker.turns("canary"))
            self.assertEqual(refusal.reason, "SESSION_NOT_FOUND")
            self.assertEqual(len(Client(gateway, "tenant-b").turns("canary")), 1)
        self.restore_and_delete("tenant-a", needles["tenant-a"])
        # In memory: prefix pages, adjacency and calibration are those of somebody who was never here.
        gateway = self.gateways["sessions"]
        fresh = self.seen(gateway, "tenant-c", ids["tenant-a"])
        self.assertEqual(self.seen(gateway, "tenant-a", ids["tenant-a"]), fresh)
        self.assertNotEqual(self.seen(gateway, "tenant-a", ids["tenant-a"]), fresh)  # and now it has learned again

    def leave_traces(self, tenant, text, ids):
        """A document, a segment, knowledge, and with each gateway a session and a stream that could be resumed."""
        asker = Client(self.cluster.gateway, tenant)
        asker.ask(ids, **FIXED)
        self.store_again(tenant, [1 + i % 200 for i in range(600_000)] + ids)  # of two tenants: more than stays on the heap
        for gateway in self.gateways.values():
            keeper = Client(gateway, tenant)
            keeper.create_session("canary")
            client.collect(keeper.say("canary", text, **SHORT))
            keeper.ask(ids, **SHORT)

    def store_again(self, tenant, ids):
        document = client.retrieval.Document(namespace=namespace(self.cluster, tenant), id=secrets.token_hex(4), tokens=ids)
        retrieval_of(self.cluster).Append(client.retrieval.AppendRequest(documents=[document]), timeout=SECONDS)

    def answers(self, asker, ids):
        try:
            return bool(asker.ask(ids, **FIXED).ids)
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)

    def seen(self, gateway, tenant, ids):
        answer = Client(gateway, tenant).ask(ids, store=False, draft_scope=client.generation.DRAFT_SCOPE_NONE, **FIXED)
        return (answer.ids, answer.sources, answer.finished.speculation.draft_nodes, answer.started.cached_tokens)

    def learned(self, tenant):
        """The records of its knowledge file: a token and what followed it, with log-probabilities; those long enough not to be
        another tenant's by chance."""
        path, = (self.folder / "state").rglob(f"{tenant}.knowledge")
        data = path.read_bytes()
        counts, entries = (int.from_bytes(data[i:i + 4], "little") for i in (16, 20))
        records = [data[88 + 8 * counts + 68 * i:][:68] for i in range(entries)]
        self.assertGreater(len(records), 0)
        others = b"".join(other.read_bytes() for other in path.parent.iterdir() if other != path)
        own = [record for record in records if record not in others]
        self.assertGreater(len(own), 0)
        return own

    def places_of(self, needles):
        """Where in the cluster's folder one of them is, in a file's name or in it; but for logs, which name tenants. Segments are
        where the ids are; what has the rest alone is a place of its own."""
        ids, patterns = needles
        found = set()
        for path in self.folder.rglob("*"):
            place = path.relative_to(self.folder).as_posix()
            if not path.is_file() or path.suffix == ".log" and path.parent == self.folder:
                continue
            data = path.name.encode() + path.read_bytes()
            segment = path.suffix == ".seg"
            has_ids = segment and in_segment(path.read_bytes(), ids)
            if not has_ids and not any(pattern in data for pattern in patterns):
                continue
            kind = {".log": " log", ".sst": " table", ".seg": "" if has_ids else " without ids"}.get(path.suffix, " " + path.name)
            if place.startswith(("state", "sessions", "redis")):
                found.add(place.split("/")[0])
            elif place.startswith("store.checkpoints"):
                found.add("/".join(place.split("/")[:2]) + (" segments" + kind if segment else kind))
            else:
                found.add(path.parent.relative_to(self.folder).as_posix() + kind)
        return found

    def delete(self, tenant, gateway):
        admin = client.admin_grpc.AdminServiceStub(client.connect(gateway))
        response = admin.DeleteTenant(client.admin.AdminServiceDeleteTenantRequest(tenant=tenant), timeout=SECONDS)
        self.assertTrue(response.complete, response)
        self.assertEqual({place.place for place in response.places}, {"gateway", self.cluster.worker.address})
        self.assertNotIn(tenant, [t.tenant for t in admin.GetUsage(client.admin.GetUsageRequest(), timeout=SECONDS).tenants])
        self.assertEqual(stats(self.cluster.retrieval, tenant).documents, 0)

    def restore_and_delete(self, tenant, needles):
        """The rule for backups: who restores one deletes again, and it is gone from there too."""
        (self.folder / "store.checkpoints/before").rename(self.folder / "restored")
        restored = self.cluster.add("clamor-retrieval", "--store", self.folder / "restored", label="-restored").wait_ready()
        self.assertGreater(stats(restored, tenant).documents, 0)
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(restored))
        self.assertGreater(stub.DeleteTenant(client.retrieval.DeleteTenantRequest(tenant=tenant), timeout=SECONDS).documents, 0)
        self.assertEqual(stats(restored, tenant).documents, 0)
        self.assertEqual(self.places_of(needles), set())


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


def retrieval_of(cluster):
    return client.retrieval_grpc.RetrievalServiceStub(client.connect(cluster.retrieval))


def namespace(cluster, tenant):
    info = Client(cluster.gateway).models.GetModelInfo(client.model.GetModelInfoRequest(), timeout=SECONDS).model
    return client.retrieval.Namespace(tenant=tenant, tokenizer_fingerprint=info.tokenizer_fingerprint)


def lookup(cluster, tenant, ids):
    query = client.retrieval.LookupQuery(namespace=namespace(cluster, tenant), context=ids)
    return retrieval_of(cluster).Lookup(client.retrieval.LookupRequest(queries=[query]), timeout=SECONDS).tries[0]


if __name__ == "__main__":
    main()
