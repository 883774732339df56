"""A retrieval server that follows another: it comes to have the same documents from whatever it begins with, keeps up, refuses
changes of its own, and takes over when it is told to."""
import pathlib
import random
import shutil
import tempfile
import unittest

import grpc

import client
from client import retrieval
from cluster import DEMO_MODEL, ClusterTest, Server, main, wait_until
from stored import STORED, Store, document

TENANTS = ("ann", "bob")


class FollowerTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.leader = self.start("leader")

    def start(self, name, *flags):
        server = Server("clamor-retrieval", self.folder, "--store", self.folder / name, *flags, label=f"-{name}")
        self.addCleanup(lambda: server.alive() and server.kill())
        return server.start().wait_ready()

    def follow(self, name="follower"):
        return self.start(name, "--follow", self.leader.address)

    def wait_same(self, one, other, documents):
        """Until both have the same documents, as far as counts tell; then every lookup must be the same."""
        one, other = Store(one), Store(other)

        def counts(store):
            return [(stats.documents, stats.tokens) for stats in map(store.stats, TENANTS)]

        wait_until(lambda: counts(one) == counts(other), f"{counts(one)} documents and tokens on both")
        chosen = random.Random(1)
        contexts = [each.tokens[at:at + 1 + chosen.randrange(20)]
                    for each in chosen.sample(documents, min(len(documents), 200)) for at in [chosen.randrange(20)]]
        for tenant in TENANTS:
            # Which of equals is newer may differ: the order in which documents came is not kept.
            longest = [[(trie.match_length, trie.occurrences) for trie in store.lookup(contexts, tenant)]
                       for store in (one, other)]
            self.assertEqual(*longest)

    def test_begins_with_anything_and_keeps_up(self):
        store = Store(self.leader)
        many = [document("ann", number, length=30) for number in range(5000)]  # more than a page
        for first in range(0, len(many), 1000):
            store.append(many[first:first + 1000])
        stale = [document("ann", number, version=1, length=30) for number in range(50)]
        foreign = [document("bob", number) for number in range(20)]
        before = self.start("follower")
        Store(before).append(stale + many[50:100] + foreign)
        before.kill()

        follower = self.follow()
        copy = Store(follower)
        self.wait_same(self.leader, follower, many + stale + foreign)
        self.assertTrue(all(copy.follows(each) for each in many[:100]))
        self.assertFalse(any(copy.follows(each) for each in stale + foreign))

        new = [document("bob", number) for number in range(100, 200)]
        store.append(new)
        store.append(stale[:10])
        for each in many[1000:1040]:
            self.assertTrue(store.delete(each))
        wait_until(lambda: copy.follows(new[-1]) and not copy.follows(many[1039]), "the follower has what changed")
        self.wait_same(self.leader, follower, many + new + stale)
        self.assertTrue(all(copy.follows(each) for each in stale[:10]))
        store.stub.DeleteTenant(retrieval.DeleteTenantRequest(tenant="bob"), timeout=60)
        wait_until(lambda: copy.stats("bob").documents == 0, "the tenant is gone from the follower too")
        going = document("bob", 1000)
        going.ttl_seconds = 2
        store.append([going])
        wait_until(lambda: copy.follows(going), "the follower has what will expire")
        wait_until(lambda: not copy.follows(going), "it expires there too")
        wait_until(lambda: follower.metric("clamor_retrieval_follower_lag_seconds") < 3, "the follower says that it keeps up")

    def test_refuses_changes(self):
        copy = Store(self.follow())
        for change in (lambda: copy.append([document("ann", 1)]), lambda: copy.delete(document("ann", 1)),
                       lambda: copy.stub.DeleteTenant(retrieval.DeleteTenantRequest(tenant="ann"), timeout=60),
                       lambda: copy.stub.LoadSegments(retrieval.LoadSegmentsRequest(name="x"), timeout=60)):
            with self.assertRaises(grpc.RpcError) as refused:
                change()
            self.assertEqual(client.read_refusal(refused.exception).reason, "FOLLOWER")

    def test_a_follower_is_not_followed(self):
        """So that one whose leader comes to follow it keeps what that has not copied yet."""
        own = [document("ann", number) for number in range(20)]
        before = self.start("other")
        Store(before).append(own)
        before.kill()
        other = self.start("other", "--follow", self.follow().address)
        wait_until(lambda: other.log.read_text().count("this server follows another one") > 1, "it is refused, again and again")
        self.assertTrue(all(Store(other).follows(each) for each in own))

    def test_kills_and_taking_over(self):
        documents = [document("ann", number) for number in range(400)]
        Store(self.leader).append(documents[:100])
        follower = self.follow()
        self.leader.kill()
        wait_until(lambda: follower.metric("clamor_retrieval_follower_lag_seconds") > 1, "the follower notices")
        self.assertTrue(follower.ready())
        self.leader.start().wait_ready()
        Store(self.leader).append(documents[100:200])
        self.assertTrue(Store(self.leader).delete(documents[150]))
        self.wait_same(self.leader, follower, documents)
        follower.kill()
        Store(self.leader).append(documents[200:300])
        self.assertTrue(Store(self.leader).delete(documents[0]))
        follower.start().wait_ready()
        self.wait_same(self.leader, follower, documents)

        self.leader.kill()
        follower.terminate()
        self.assertEqual(follower.wait_exit(), 0)
        successor = self.start("follower")  # without --follow
        self.assertEqual(Store(successor).append(documents[300:]), [STORED] * 100)
        kept = documents[1:150] + documents[151:]
        self.assertTrue(all(Store(successor).follows(each) for each in kept))
        self.leader = successor
        returned = self.follow("leader")
        self.wait_same(successor, returned, documents)
        self.assertTrue(all(Store(returned).follows(each) for each in kept))


class ReplicasTest(ClusterTest):
    """A worker whose tenants are spread over two servers, each with a follower: ids depend on none of them."""

    LONG = dict(max_tokens=300, ignore_eos=True)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cluster = cls.cluster
        cls.pairs = []
        for name in "ab":
            leader = cluster.add("clamor-retrieval", "--store", cluster.folder / name, label=f"-{name}")
            follower = cluster.add("clamor-retrieval", "--store", cluster.folder / f"{name}-copy", "--follow",
                                   leader.address, label=f"-{name}-copy")
            cls.pairs.append((leader.wait_ready(), follower.wait_ready()))
        cls.worker = cluster.add("clamor-worker", "--model", DEMO_MODEL, *cls.worker_flags, "--retrieval",
                                 ",".join(f"{leader.address}|{follower.address}" for leader, follower in cls.pairs),
                                 label="-replicas").wait_ready()
        cls.gateway = cluster.add("clamor-gateway", "--workers", cls.worker.address, label="-replicas").wait_ready()

    def hedges(self, outcome):
        return self.worker.metric("clamor_worker_retrieval_hedges_total", outcome=outcome)

    def test_the_follower_answers_where_its_leader_does_not(self):
        asking = client.Client(self.gateway)
        plain = asking.ask(client.QUESTIONS[0], nodes=0, **self.LONG).ids
        leader, follower = wait_until(lambda: next((pair for pair in self.pairs if Store(pair[0]).stats().documents), None),
                                      "one of the servers has the answer")
        self.assertEqual([Store(each).stats().documents for each, _ in self.pairs if each is not leader], [0])
        wait_until(lambda: Store(follower).stats().documents == 1, "its follower has it too")

        def drafted():
            answer = asking.ask(client.QUESTIONS[0], nodes=16, **self.LONG)
            self.assertEqual(answer.ids, plain)
            return answer.finished.speculation.accepted.store > 0

        wait_until(drafted, "the store drafts")
        leader.kill()
        wait_until(lambda: drafted() and self.hedges("failed_won") > 0, "the follower drafts")
        leader.start().wait_ready()

        def follower_helps():
            before = self.hedges("failed_won")
            return drafted() and self.hedges("failed_won") > before

        wait_until(lambda: not follower_helps(), "the leader drafts again")
        leader.pause()
        wait_until(lambda: drafted() and self.hedges("slow_won") > 0, "the follower drafts, as far as it may be asked")
        wait_until(follower_helps, "a leader that has said nothing for long is given up: the follower is asked everything")
        leader.resume()
        asked = sum(self.worker.metric("clamor_worker_retrieval_requests_total", outcome=outcome)
                    for outcome in ("ok", "timeout", "error"))
        print(f"{asked:.0f} lookups; asked twice for being slow {self.hedges('slow_won') + self.hedges('slow_lost'):.0f}, "
              f"after a failure {self.hedges('failed_won') + self.hedges('failed_lost'):.0f}")
        self.assertLessEqual(self.hedges("slow_won") + self.hedges("slow_lost"), 1 + 0.05 * asked)


if __name__ == "__main__":
    main()
