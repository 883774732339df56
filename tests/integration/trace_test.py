"""Traces: one leads from the client through gateway, worker and store, over the loss of a worker too; a collector of the
test's own gets its spans; what a caller does not record nobody records; no text is in a span or a log."""
import collections
import concurrent.futures
import http.client
import json
import os
import re
import secrets
import threading

import grpc

import client
from client import Client, QUESTIONS, Stream
from cluster import SECONDS, ClusterTest, main, wait_until
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

SERVER, CLIENT, INTERNAL = (getattr(trace_pb2.Span, f"SPAN_KIND_{kind}") for kind in ("SERVER", "CLIENT", "INTERNAL"))
ANSWER = dict(max_tokens=20, ignore_eos=True)

Seen = collections.namedtuple("Seen", "process name kind id parent start end attributes error state")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    def __init__(self):
        self._lock = threading.Lock()
        self._requests = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, context):
        with self._lock:
            self._requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def text(self):
        """All that has come, as bytes."""
        with self._lock:
            return b"".join(request.SerializeToString() for request in self._requests)

    def spans(self, trace):
        """Of one trace, given as in traceparent."""
        with self._lock:
            requests = list(self._requests)
        seen = []
        for part in (part for request in requests for part in request.resource_spans):
            process = {a.key: a.value.string_value for a in part.resource.attributes}["service.name"]
            for span in (span for scope in part.scope_spans for span in scope.spans):
                if span.trace_id.hex() != trace:
                    continue
                attributes = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                assert len(attributes) == len(span.attributes), span
                assert span.start_time_unix_nano <= span.end_time_unix_nano, span
                seen.append(Seen(process.removeprefix("clamor-"), span.name, span.kind, span.span_id.hex(),
                                 span.parent_span_id.hex(), span.start_time_unix_nano, span.end_time_unix_nano, attributes,
                                 span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else "",
                                 span.trace_state))
        return seen

    def wait_for(self, trace, *names):
        """The spans of a trace, once those of these names are among them."""
        return wait_until(lambda: (spans := self.spans(trace)) and not set(names) - {f"{s.process} {s.name}" for s in spans}
                          and spans, f"{names} of {trace}")


def new_trace():
    return secrets.token_hex(16), secrets.token_hex(8)


def traced(gateway, tenant=None, sampled=True, state=None):
    """A client that stands in a trace: itself, the trace and its span."""
    trace, span = new_trace()
    asker = Client(gateway, tenant)
    asker.metadata = [*asker.metadata, ("traceparent", f"00-{trace}-{span}-0{int(sampled)}")]
    if state:
        asker.metadata.append(("tracestate", state))
    return asker, trace, span


class TraceTest(ClusterTest):
    worker_environments = ({}, {})

    @classmethod
    def setUpClass(cls):
        cls.collector = Collector()
        cls.addClassCleanup(lambda: cls.collector.server.stop(None))
        os.environ["CLAMOR_OTLP_ENDPOINT"] = cls.collector.address  # for all servers
        cls.addClassCleanup(os.environ.pop, "CLAMOR_OTLP_ENDPOINT")
        super().setUpClass()

    ALL = ("gateway admission", "gateway route", "gateway attempt", "worker StreamGenerate", "worker queue", "worker prefill",
           "worker decode", "worker append", "retrieval Append")

    def check_tree(self, spans, root, caller):
        """Each hop is the child of the one before, and lies within it where the caller waits for it."""
        names = collections.Counter(f"{span.process} {span.name}" for span in spans)
        self.assertEqual(names, collections.Counter((root, *self.ALL)))
        by_name = {f"{span.process} {span.name}": span for span in spans}
        expected = {root: (None, SERVER), "gateway admission": (root, INTERNAL), "gateway route": (root, INTERNAL),
                    "gateway attempt": (root, CLIENT), "worker StreamGenerate": ("gateway attempt", SERVER),
                    "worker queue": ("worker StreamGenerate", INTERNAL), "worker prefill": ("worker StreamGenerate", INTERNAL),
                    "worker decode": ("worker StreamGenerate", INTERNAL), "worker append": ("worker StreamGenerate", CLIENT),
                    "retrieval Append": ("worker append", SERVER)}
        for name, (parent, kind) in expected.items():
            span = by_name[name]
            self.assertEqual((span.parent, span.kind, span.error), (by_name[parent].id if parent else caller, kind, ""), name)
            if parent and span.name != "append":
                self.assertGreaterEqual(span.start, by_name[parent].start, name)
                self.assertLessEqual(span.end, by_name[parent].end, name)
        self.assertEqual(len({span.id for span in spans}), len(spans))
        return by_name

    def test_one_trace_spans_all_hops(self):
        asker, trace, caller = traced(self.cluster.gateway, state="vendor=1,other=2")
        answer = asker.ask(QUESTIONS[10], **ANSWER)
        spans = self.collector.wait_for(trace, "gateway StreamGenerate", *self.ALL)
        by_name = self.check_tree(spans, "gateway StreamGenerate", caller)
        self.assertEqual({span.state for span in spans}, {"vendor=1,other=2"})
        attributes = by_name["gateway StreamGenerate"].attributes
        self.assertEqual(attributes["clamor.request_id"], answer.started.request_id)
        self.assertEqual(attributes["gen_ai.request.model"], answer.started.model)
        self.assertEqual(attributes["gen_ai.usage.input_tokens"], answer.started.prompt_tokens)
        self.assertEqual(attributes["gen_ai.usage.output_tokens"], 20)
        self.assertEqual(by_name["worker StreamGenerate"].attributes["clamor.forwards"], answer.finished.speculation.forwards)
        self.assertIn(by_name["gateway attempt"].attributes["server.address"], [w.address for w in self.cluster.workers])
        self.assertEqual(by_name["gateway attempt"].attributes["clamor.next_token_index"], 20)
        # What the worker tells of its phases is what its client is told.
        for phase, seconds in (("queue", answer.finished.timings.queue_seconds),
                               ("prefill", answer.finished.timings.prefill_seconds)):
            span = by_name[f"worker {phase}"]
            self.assertAlmostEqual((span.end - span.start) / 1e9, seconds, delta=1e-3 + 0.01 * seconds)

    def test_over_http(self):
        trace, caller = new_trace()
        connection = http.client.HTTPConnection(self.cluster.gateway.api, timeout=SECONDS)
        body = {"messages": [{"role": "user", "content": QUESTIONS[11]}], "max_tokens": 20, "ignore_eos": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body),
                           {"Content-Type": "application/json", "traceparent": f"00-{trace}-{caller}-01", "tracestate": "v=1"})
        reply = connection.getresponse()
        self.assertEqual(reply.status, 200, reply.read())
        spans = self.collector.wait_for(trace, "gateway ChatCompletions", *self.ALL)
        by_name = self.check_tree(spans, "gateway ChatCompletions", caller)
        self.assertEqual({span.state for span in spans}, {"v=1"})
        self.assertEqual(by_name["gateway ChatCompletions"].attributes["clamor.request_id"], reply.getheader("x-request-id"))

    def test_what_the_caller_does_not_record_nobody_records(self):
        asker, trace, _ = traced(self.cluster.gateway, sampled=False)
        answer = asker.ask(QUESTIONS[12], **ANSWER)
        after, later, _ = traced(self.cluster.gateway)  # when its spans are there, others would be
        after.ask(QUESTIONS[12], **ANSWER)
        self.collector.wait_for(later, "gateway StreamGenerate", "worker StreamGenerate", "worker append")
        self.assertEqual(self.collector.spans(trace), [])
        # Both servers' lines have the trace and the request all the same.
        for server in (self.cluster.gateway, self.worker_of(answer.started.request_id)):
            line, = (line for line in server.log.read_text().splitlines() if f"trace={trace}" in line)
            self.assertIn("event=request", line)
            self.assertIn(answer.started.request_id, line)

    def worker_of(self, request_id):
        return wait_until(lambda: next((w for w in self.cluster.workers if request_id in w.log.read_text()), None), "its line")

    def test_who_has_no_trace_gets_one(self):
        answer = Client(self.cluster.gateway).ask(QUESTIONS[13], **ANSWER)
        found = lambda: re.search(rf"event=request .*id={answer.started.request_id} .*trace=(\w+)",
                                  self.cluster.gateway.log.read_text())
        trace = wait_until(found, "the gateway's line").group(1)
        self.check_tree(self.collector.wait_for(trace, "gateway StreamGenerate", *self.ALL), "gateway StreamGenerate", "")

    def test_refusals(self):
        asker, trace, caller = traced(self.cluster.gateway)
        client.refusal_of(lambda: asker.ask("x", max_tokens=10 ** 6))
        span, = self.collector.wait_for(trace, "gateway StreamGenerate")
        self.assertEqual((span.parent, span.error, span.attributes["error.type"]), (caller, "CONTEXT_TOO_LONG", "CONTEXT_TOO_LONG"))

    def test_a_failover_is_one_trace(self):
        asker, trace, _ = traced(self.cluster.gateway)
        stream = Stream(asker.start(QUESTIONS[14], max_tokens=300, ignore_eos=True, nodes=0))
        wait_until(lambda: stream.tokens > 10, "some tokens")
        attempt = client.worker_grpc.WorkerServiceStub
        load = lambda w: attempt(client.connect(w)).GetLoad(client.worker.GetLoadRequest(), timeout=SECONDS).load.running
        killed = max(self.cluster.workers, key=load)
        killed.kill()
        self.assertEqual(len(stream.answer().ids), 300)
        spans = self.collector.wait_for(trace, "gateway StreamGenerate", "worker StreamGenerate", "gateway failover")
        named = lambda name: sorted((s for s in spans if f"{s.process} {s.name}" == name), key=lambda s: s.start)
        request, = named("gateway StreamGenerate")
        first, second = named("gateway attempt")
        failover, = named("gateway failover")
        served, = named("worker StreamGenerate")  # the other's went with it
        self.assertEqual({first.parent, second.parent, failover.parent}, {request.id})
        self.assertEqual((first.attributes["server.address"], first.attributes["clamor.loss"], first.error),
                         (killed.address, "died", "NO_WORKER"))
        self.assertEqual(second.attributes["clamor.first_token_index"], first.attributes["clamor.next_token_index"])
        self.assertEqual((second.error, served.parent), ("", second.id))
        self.assertTrue(first.end <= failover.start <= failover.end <= second.end)
        for event in ("worker_lost", "failover"):
            self.assertRegex(self.cluster.gateway.log.read_text(), rf"event={event} id={stream.started.request_id} .* trace={trace}\n")
        killed.start().wait_ready()
        status = lambda: [w.state for w in asker.models.GetStatus(client.model.GetStatusRequest()).workers]
        wait_until(lambda: status() == [client.model.WORKER_STATE_READY] * 2, "both are ready")

    def test_no_text_is_in_a_span_or_a_log(self):
        canary = f"canary {secrets.token_hex(8)}"
        asker, trace, _ = traced(self.cluster.gateway, "a")
        answer = asker.ask(canary, max_tokens=60, ignore_eos=True)
        asker.ask([("user", canary)], **ANSWER)
        for wrong in (dict(max_tokens=10 ** 6), dict(stop=[""]), dict(json_schema=f'{{"{canary}": 1}}')):
            client.refusal_of(lambda: asker.ask(canary, **wrong))
        wait_until(lambda: len([s for s in self.collector.spans(trace) if s.name == "StreamGenerate" and s.error]) >= 3, "refusals")
        self.collector.wait_for(trace, "gateway StreamChat", "retrieval Append")
        told = self.collector.text() + b"".join(server.log.read_bytes() for server in self.cluster.servers)
        self.assertIn(trace.encode(), told)
        self.assertNotIn(canary.split()[1].encode(), told)
        self.assertNotIn(answer.text[:20].encode(), told)


class LostCollectorTest(ClusterTest):
    gateway_flags = ("--otlp-endpoint", "127.0.0.1:1")  # nobody

    def test_requests_do_not_notice(self):
        gateway = self.cluster.gateway
        plain = Client(gateway).ask(QUESTIONS[0], **ANSWER)
        self.assertEqual(len(plain.ids), 20)
        wait_until(lambda: gateway.metric("clamor_trace_spans_total", outcome="failed") >= 4, "spans are given up")
        self.assertEqual(gateway.metric("clamor_trace_spans_total", outcome="exported"), 0)
        self.assertEqual(Client(gateway).ask(QUESTIONS[0], **ANSWER).ids, plain.ids)


if __name__ == "__main__":
    main()
