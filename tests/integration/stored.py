"""A store asked directly: documents that can be told apart, and what is known of them."""
import random

import grpc

import client
from client import retrieval

STORED, UNCHANGED = retrieval.APPEND_OUTCOME_STORED, retrieval.APPEND_OUTCOME_UNCHANGED


def space(tenant):
    return retrieval.Namespace(tenant=tenant, tokenizer_fingerprint="ab")


def document(tenant, number, version=0, length=400):
    """Any eight neighbours of its tokens are in no other document or version."""
    tokens = random.Random(f"{tenant}/{number}/{version}").choices(range(30000), k=length)
    return retrieval.Document(namespace=space(tenant), id=f"document {number}", tokens=tokens)


class Store:
    """The RPCs of one server."""

    def __init__(self, server):
        self.stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(server))

    def append(self, documents):
        """The outcomes; grpc.RpcError."""
        return list(self.stub.Append(retrieval.AppendRequest(documents=documents), timeout=60).outcomes)

    def delete(self, document):
        request = retrieval.DeleteDocumentRequest(id=document.id)
        request.namespace.CopyFrom(document.namespace)
        return self.stub.DeleteDocument(request, timeout=60).found

    def lookup(self, contexts, tenant):
        """A trie for each."""
        queries = [retrieval.LookupQuery(namespace=space(tenant), context=context, max_match=64) for context in contexts]
        return list(self.stub.Lookup(retrieval.LookupRequest(queries=queries), timeout=60).tries)

    def follows(self, document, at=20):
        """Whether the store knows what follows the first `at` tokens of the document."""
        (trie,) = self.lookup([document.tokens[:at]], document.namespace.tenant)
        return trie.match_length == at and trie.tokens[0] == document.tokens[at]

    def stats(self, tenant=""):
        return self.stub.GetStats(retrieval.GetStatsRequest(tenant=tenant), timeout=60)

    def checkpoint(self, name):
        return self.stub.Checkpoint(retrieval.CheckpointRequest(name=name), timeout=600).path
