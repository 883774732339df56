"""kill -9 of the retrieval service in the middle of streams: no answer changes, nothing acknowledged is lost, and drafts from
the store come back by themselves."""
import threading

import grpc

import client
from client import Client, QUESTIONS, Stream, retrieval
from cluster import ClusterTest, main, wait_until

ASKED = QUESTIONS[:2] * 2  # one stream each


class Writer:
    """Appends documents one after the other until the service is gone; `acknowledged` are those that it has answered."""

    SPACE = retrieval.Namespace(tenant="writer", tokenizer_fingerprint="ab")

    def __init__(self, server):
        self.acknowledged = []
        self._stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(server))
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self):
        for number in range(10**6):
            document = retrieval.Document(namespace=self.SPACE, id=f"document {number}",
                                          tokens=[(number * step) % 4096 for step in range(1, 200)])
            try:
                self._stub.Append(retrieval.AppendRequest(documents=[document]), timeout=10)
            except grpc.RpcError:
                return
            self.acknowledged.append(document)

    def join(self):
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


class RetrievalLossTest(ClusterTest):

    def stats(self, tenant=""):
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(self.cluster.retrieval))
        return stub.GetStats(retrieval.GetStatsRequest(tenant=tenant), timeout=10)

    def lookups_answered(self):
        return self.cluster.worker.metric("clamor_worker_retrieval_requests_total", outcome="ok")

    def test_kill_in_the_middle(self):
        gateway, worker = Client(self.cluster.gateway), self.cluster.worker
        long = dict(max_tokens=700, ignore_eos=True, nodes=16)
        plain = {question: gateway.ask(question, **{**long, "nodes": 0}).ids for question in set(ASKED)}
        expected = [plain[question] for question in ASKED]
        wait_until(lambda: worker.metric("clamor_worker_corpus_documents_total", outcome="stored") == len(plain),
                   "the answers are in the store")
        before = self.stats("default")
        self.assertEqual(before.documents, len(plain))

        writer = Writer(self.cluster.retrieval)
        streams = [Stream(Client(self.cluster.gateway).start(question, **long)) for question in ASKED]
        wait_until(lambda: all(stream.tokens > 20 for stream in streams) and len(writer.acknowledged) > 20,
                   "the streams and the writer are under way")
        self.cluster.retrieval.kill()
        self.assertTrue(all(stream.running() for stream in streams))
        self.assertEqual([stream.answer().ids for stream in streams], expected)
        writer.join()
        without = gateway.ask(QUESTIONS[0], **long)
        self.assertEqual(without.ids, plain[QUESTIONS[0]])
        self.assertEqual(without.finished.speculation.accepted.store, 0)
        gateway.ask(QUESTIONS[2], max_tokens=20)
        self.assertGreater(worker.metric("clamor_worker_retrieval_requests_total", outcome="error"), 0)

        self.cluster.retrieval.start().wait_ready()
        after = self.stats("default")
        self.assertEqual((after.documents, after.tokens), (before.documents, before.tokens))
        self.check_writers_documents(writer)
        answered = self.lookups_answered()
        again = wait_until(lambda: self.with_store(gateway.ask(QUESTIONS[1], **long)), "the store's drafts are back")
        self.assertEqual(again.ids, plain[QUESTIONS[1]])
        self.assertGreater(self.lookups_answered(), answered)
        wait_until(lambda: self.stats("default").documents == before.documents + 1, "what was answered meanwhile is stored")

    @staticmethod
    def with_store(answer):
        return answer if answer.finished.speculation.accepted.store > 0 else None

    def check_writers_documents(self, writer):
        """What was acknowledged is there, unchanged; the one under way at the end may be."""
        documents = writer.acknowledged
        print(f"{len(documents)} documents were acknowledged before the kill")
        self.assertIn(self.stats("writer").documents, (len(documents), len(documents) + 1))
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(self.cluster.retrieval))
        for first in range(0, len(documents), 500):
            reply = stub.Append(retrieval.AppendRequest(documents=documents[first:first + 500]), timeout=30)
            self.assertEqual(set(reply.outcomes), {retrieval.APPEND_OUTCOME_UNCHANGED})
        context = documents[-1].tokens
        query = retrieval.LookupQuery(namespace=Writer.SPACE, context=context[:40], max_match=40)
        (trie,) = stub.Lookup(retrieval.LookupRequest(queries=[query]), timeout=10).tries
        self.assertEqual((trie.match_length, trie.tokens[0]), (40, context[40]))


if __name__ == "__main__":
    main()
