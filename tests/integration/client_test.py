"""What a client sees of a healthy cluster: streams, cancellation, deadlines, health, reflection, and refusals that name
what is wrong and leave the servers up."""
import hashlib
import json
import math

import grpc

import client
from client import Client, PUBLISHED, QUESTIONS, Stream, generation, health, model, refusal_of
from cluster import DEMO_MODEL, ClusterTest, main, wait_until

CHAT = [("user", QUESTIONS[0])]
LONG = dict(max_tokens=900, ignore_eos=True, nodes=0)  # still runs when somebody takes notice


class GenerationTest(ClusterTest):

    worker_flags = ()  # as users start it

    def setUp(self):
        self.client = Client(self.cluster.gateway)

    def test_text_and_ids(self):
        ids = self.client.tokenize(QUESTIONS[0])
        by_text = self.client.ask(QUESTIONS[0], max_tokens=40)
        by_ids = self.client.ask(ids, max_tokens=40)
        self.assertEqual(by_text.ids, by_ids.ids)
        self.assertEqual(by_text.text, by_ids.text)
        self.assertEqual(by_text.started.prompt_tokens, len(ids))
        self.assertEqual(by_text.started.model, "demo-model")
        self.assertNotEqual(by_text.started.request_id, by_ids.started.request_id)

    def test_chat(self):
        answer = self.client.ask(CHAT, max_tokens=60)
        self.assertEqual(answer.ids, self.client.ask(self.client.tokenize(CHAT), max_tokens=60).ids)
        self.assertEqual(answer.text, self.client.detokenize(answer.ids, skip_special_tokens=True))

    def test_unary_is_the_stream_in_one_piece(self):
        streamed, whole = self.client.ask(QUESTIONS[1], max_tokens=40), self.client.ask_unary(QUESTIONS[1], max_tokens=40)
        self.assertEqual((list(whole.token_ids), whole.text), (streamed.ids, streamed.text))
        self.assertEqual(len(whole.sources), len(whole.token_ids))
        self.assertEqual(whole.finished.reason, streamed.finished.reason)
        streamed, whole = self.client.ask(CHAT, max_tokens=40), self.client.ask_unary(CHAT, max_tokens=40)
        self.assertEqual((list(whole.token_ids), whole.text), (streamed.ids, streamed.text))

    def test_speculation_changes_nothing(self):
        for sampling in ({}, {"temperature": 0.8, "seed": 7}, {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "seed": 8}):
            plain = self.client.ask(CHAT, max_tokens=80, nodes=0, **sampling)
            self.assertEqual(plain.tokens_per_forward, 1)
            for drafts in ({}, {"nodes": 1}, {"nodes": 16}, {"nodes": 64}, {"tree": PUBLISHED}):
                with self.subTest(sampling=sampling, drafts=drafts):
                    answer = self.client.ask(CHAT, max_tokens=80, **drafts, **sampling)
                    self.assertEqual((answer.ids, answer.text), (plain.ids, plain.text))

    def test_sampling_features_and_speculation(self):
        base = self.client.ask(CHAT, max_tokens=60)
        for fields in ({"repetition_penalty": 1.3}, {"presence_penalty": 1.5}, {"frequency_penalty": 0.8},
                       {"logit_bias": {base.ids[2]: -5}}, {"banned_token_ids": base.ids[:2]},
                       {"stop_token_ids": base.ids[3:4], "min_tokens": 2}, {"top_logprobs": 20},
                       {"repetition_penalty": 1.1, "frequency_penalty": 0.3, "temperature": 0.8, "seed": 3,
                        "banned_token_ids": base.ids[:1], "top_logprobs": 2}):
            with self.subTest(fields=fields):
                plain = self.client.ask(CHAT, max_tokens=60, nodes=0, **fields)
                drafted = self.client.ask(CHAT, max_tokens=60, nodes=32, **fields)
                self.assertEqual((drafted.ids, drafted.text, drafted.logprobs), (plain.ids, plain.text, plain.logprobs))
                self.assertEqual(plain.ids == base.ids, set(fields) == {"top_logprobs"})
                whole = self.client.ask_unary(CHAT, max_tokens=60, **fields)
                self.assertEqual((list(whole.token_ids), list(whole.logprobs)), (plain.ids, plain.logprobs))

    def test_several_answers_are_those_of_their_seeds(self):
        fields = {"max_tokens": 40, "temperature": 0.9}
        answers = self.client.ask_unary(CHAT, n=4, seed=11, **fields)
        self.assertEqual(len(answers), 4)
        for number, answer in enumerate(answers):
            alone = self.client.ask(CHAT, seed=11 + number, nodes=0, **fields)
            self.assertEqual((list(answer.token_ids), answer.text), (alone.ids, alone.text))
            self.assertEqual((answer.started.seed, answer.started.choice), (11 + number, number))
            if number > 0:
                self.assertGreater(answer.started.cached_tokens, 0, "the first has read the prompt")

    def test_json_schema(self):
        schema = {"type": "object", "required": ["name", "sizes"], "properties": {
            "name": {"type": "string", "maxLength": 8}, "sizes": {"type": "array", "items": {"type": "integer", "enum": [1, 2, 3]},
                                                                  "minItems": 1, "maxItems": 3}}}
        for sampling in ({}, {"temperature": 1.0, "seed": 5}):
            fields = {"max_tokens": 200, "json_schema": json.dumps(schema), **sampling}
            plain = self.client.ask(CHAT, nodes=0, **fields)
            self.assertEqual(plain.finished.reason, generation.FINISH_REASON_STOP)
            document = json.loads(plain.text)
            self.assertEqual(list(document), ["name", "sizes"])
            self.assertTrue(len(document["name"]) <= 8 and 1 <= len(document["sizes"]) <= 3)
            for drafts in ({}, {"nodes": 32}, {"tree": PUBLISHED}):
                self.assertEqual(self.client.ask(CHAT, **drafts, **fields).ids, plain.ids)
        for text, reason in (('{"type": "string", "pattern": "a"}', "UNSUPPORTED_SCHEMA"), ("{", "INVALID_FIELD")):
            refusal = refusal_of(lambda: self.client.ask(CHAT, json_schema=text))
            self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.INVALID_ARGUMENT, reason))
            self.assertIn("options.json_schema: ", refusal.message)

    def test_logprobs(self):
        self.assertEqual(self.client.ask(CHAT, max_tokens=20).logprobs, [])
        greedy = self.client.ask(CHAT, max_tokens=20, top_logprobs=5)
        self.assertEqual(len(greedy.logprobs), len(greedy.ids))
        for token_id, token in zip(greedy.ids, greedy.logprobs):
            self.assertEqual((token.top[0].token_id, token.top[0].logprob), (token_id, token.logprob))
            self.assertEqual([likely.logprob for likely in token.top],
                             sorted((likely.logprob for likely in token.top), reverse=True))
            self.assertEqual(len(token.top), 5)
            self.assertLessEqual(sum(math.exp(likely.logprob) for likely in token.top), 1.0001)
        alone = self.client.ask(CHAT, max_tokens=20, top_logprobs=0)
        self.assertEqual([(token.logprob, len(token.top)) for token in alone.logprobs],
                         [(token.logprob, 0) for token in greedy.logprobs])

    def test_stop_ids_and_minimum_tokens(self):
        whole = self.client.ask(CHAT, max_tokens=40)
        end = whole.ids[6]
        first = whole.ids.index(end)
        stopped = self.client.ask(CHAT, max_tokens=40, stop_token_ids=[end])
        self.assertEqual((stopped.ids, stopped.finished.reason), (whole.ids[:first + 1], generation.FINISH_REASON_STOP))
        self.assertEqual(stopped.text, self.client.detokenize(stopped.ids, skip_special_tokens=True))
        later = self.client.ask(CHAT, max_tokens=40, stop_token_ids=[end], min_tokens=first + 3)
        self.assertGreater(len(later.ids), first + 3)
        self.assertNotIn(end, later.ids[:first + 3])

    def test_an_unset_seed_is_told(self):
        first = self.client.ask(CHAT, max_tokens=40, temperature=1)
        self.assertEqual(self.client.ask(CHAT, max_tokens=40, temperature=1, seed=first.started.seed).ids, first.ids)
        self.assertNotEqual(self.client.ask(CHAT, max_tokens=40, temperature=1, seed=first.started.seed + 1).ids, first.ids)

    def test_ends(self):
        whole = self.client.ask(CHAT, max_tokens=60)
        cut = self.client.ask(CHAT, max_tokens=7)
        self.assertEqual((cut.finished.reason, cut.ids), (generation.FINISH_REASON_LENGTH, whole.ids[:7]))
        stop = whole.text[20:26]
        stopped = self.client.ask(CHAT, max_tokens=60, stop=["not in there", stop])
        self.assertEqual(stopped.finished.reason, generation.FINISH_REASON_STOP)
        self.assertEqual(stopped.finished.matched_stop, stop)
        self.assertEqual(stopped.text, whole.text[:whole.text.index(stop)])
        self.assertEqual(stopped.ids, whole.ids[:len(stopped.ids)])
        ended = self.client.ask(CHAT)
        self.assertEqual(ended.finished.reason, generation.FINISH_REASON_STOP)
        self.assertEqual(ended.finished.matched_stop, "")
        self.assertGreater(len(self.client.ask(CHAT, max_tokens=len(ended.ids) + 5, ignore_eos=True).ids), len(ended.ids))

    def test_tokenizer(self):
        for text in ("plain", " two  spaces\n", "naïve 漢字 🙂 \u0301", ""):
            ids = self.client.tokenize(text, add_special_tokens=False)
            self.assertEqual(self.client.detokenize(ids), text)

    def test_models(self):
        listed = self.client.models.ListModels(model.ListModelsRequest(), timeout=10).models
        self.assertEqual([info.name for info in listed], ["demo-model"])
        info = self.client.models.GetModelInfo(model.GetModelInfoRequest(model="demo-model"), timeout=10).model
        self.assertEqual(info, listed[0])
        config = json.loads((DEMO_MODEL / "config.json").read_text())
        self.assertEqual(info.vocab_size, config["vocab_size"])
        self.assertEqual(info.max_context_tokens, config["max_position_embeddings"])
        self.assertEqual(info.tokenizer_fingerprint,
                         hashlib.sha256((DEMO_MODEL / "tokenizer.json").read_bytes()).hexdigest())
        self.assertEqual(info.numerics, model.NUMERICS_BITWISE)
        self.assertTrue(info.has_chat_template)
        status = self.client.models.GetStatus(model.GetStatusRequest(), timeout=10)
        self.assertEqual([(w.address, w.state) for w in status.workers],
                         [(self.cluster.worker.address, model.WORKER_STATE_READY)])


class EarlyEndTest(ClusterTest):

    def wait_idle(self):
        worker = self.cluster.worker
        wait_until(lambda: worker.metric("clamor_requests_running") + worker.metric("clamor_requests_waiting") == 0 and
                   worker.metric("clamor_kv_pages_used") == 0, "the worker has given all pages back", seconds=2)

    def test_cancel_in_the_middle_gives_the_pages_back(self):
        streams = [Stream(Client(self.cluster.gateway).start(CHAT, **LONG)) for _ in range(3)]
        wait_until(lambda: all(stream.tokens > 5 for stream in streams), "the streams have begun")
        self.assertGreater(self.cluster.worker.metric("clamor_kv_pages_used"), 0)
        for stream in streams:
            stream.call.cancel()
        for stream in streams:
            with self.assertRaises(grpc.RpcError) as raised:
                stream.answer()
            self.assertEqual(raised.exception.code(), grpc.StatusCode.CANCELLED)
        self.wait_idle()
        wait_until(lambda: self.cluster.gateway.metric("clamor_gateway_streams_open") == 0, "they are ended", seconds=2)

    def test_deadline_of_the_client(self):
        self.assertEqual(refusal_of(lambda: Client(self.cluster.gateway).ask(CHAT, seconds=0.2, **LONG)).code,
                         grpc.StatusCode.DEADLINE_EXCEEDED)
        self.wait_idle()

    def test_deadline_of_the_gateway(self):
        hasty = self.cluster.add("clamor-gateway", "--workers", self.cluster.worker.address, "--max-request-seconds", "0.2")
        refusal = refusal_of(lambda: Client(hasty.wait_ready()).ask(CHAT, **LONG))
        self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"))
        self.wait_idle()


class HealthTest(ClusterTest):

    SERVICES = {"retrieval": ["clamor.v1.RetrievalService"], "worker": ["clamor.v1.WorkerService"],
                "gateway": ["clamor.v1.GenerationService", "clamor.v1.ModelService"]}

    def test_health(self):
        for name, services in self.SERVICES.items():
            stub = client.health_grpc.HealthStub(client.connect(getattr(self.cluster, name)))
            for service in ["", *services]:
                with self.subTest(server=name, service=service):
                    request = health.HealthCheckRequest(service=service)
                    self.assertEqual(stub.Check(request, timeout=10).status, health.HealthCheckResponse.SERVING)
                    watch = stub.Watch(request, timeout=10)
                    self.assertEqual(next(watch).status, health.HealthCheckResponse.SERVING)
                    watch.cancel()
            unknown = refusal_of(lambda: stub.Check(health.HealthCheckRequest(service="nobody"), timeout=10))
            self.assertEqual(unknown.code, grpc.StatusCode.NOT_FOUND)

    def test_reflection(self):
        for name, services in self.SERVICES.items():
            stub = client.reflection_pb2_grpc.ServerReflectionStub(client.connect(getattr(self.cluster, name)))
            request = client.reflection_pb2.ServerReflectionRequest(list_services="*")
            (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
            self.assertLessEqual(set(services), {service.name for service in reply.list_services_response.service})

    def test_http(self):
        for name in self.SERVICES:
            server = getattr(self.cluster, name)
            self.assertEqual([server.get(path)[0] for path in ("/healthz", "/readyz", "/metrics", "/nothing")],
                             [200, 200, 200, 404])


class RefusalTest(ClusterTest):

    def setUp(self):
        self.client = Client(self.cluster.gateway)
        self.expected = self.client.ask(CHAT, max_tokens=20).ids

    def tearDown(self):
        """Whatever was refused, everybody goes on as before."""
        self.assertTrue(all(server.alive() and server.ready() for server in self.cluster.servers))
        self.assertEqual(self.client.ask(CHAT, max_tokens=20).ids, self.expected)

    def assert_invalid(self, call, field, *words):
        refusal = refusal_of(call)
        self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), refusal)
        self.assertEqual(refusal.fields, [field])
        for word in (field, *words):
            self.assertIn(word, refusal.message)

    def test_prompts(self):
        for text, field, *words in (("", "prompt"), ([], "prompt"), ([5, 4096], "token_ids.ids[1]", "4096"),
                                    ([2**32 - 1], "token_ids.ids[0]", "4294967295", "4096")):
            with self.subTest(prompt=text):
                self.assert_invalid(lambda: self.client.ask(text), field, *words)
                self.assert_invalid(lambda: self.client.ask_unary(text), field, *words)
        unset = generation.StreamGenerateRequest()
        self.assert_invalid(lambda: client.collect(self.client.generation.StreamGenerate(unset, timeout=10)), "prompt")
        none = generation.StreamChatRequest()
        self.assert_invalid(lambda: client.collect(self.client.generation.StreamChat(none, timeout=10)), "messages", "0", "1024")
        self.assert_invalid(lambda: self.client.ask([("wizard", "hi")]), "messages[0].role")

    def test_options(self):
        for fields, field, *words in (
                ({"max_tokens": 0}, "options.max_tokens", "0"),
                ({"max_tokens": 2**32 - 1}, "options.max_tokens", "4294967295"),
                ({"temperature": -0.5}, "options.sampling.temperature", "-0.5", "100"),
                ({"temperature": 101}, "options.sampling.temperature", "101", "100"),
                ({"temperature": float("nan")}, "options.sampling.temperature", "nan"),
                ({"top_p": 0}, "options.sampling.top_p", "0", "1"),
                ({"top_p": 1.5}, "options.sampling.top_p", "1.5", "1"),
                ({"min_p": 2}, "options.sampling.min_p", "2", "1"),
                ({"top_k": 2**31}, "options.sampling.top_k", "2147483648", "2147483647"),
                ({"repetition_penalty": 0}, "options.sampling.repetition_penalty", "0.01", "100"),
                ({"presence_penalty": 2.5}, "options.sampling.presence_penalty", "2.5", "-2"),
                ({"frequency_penalty": -3}, "options.sampling.frequency_penalty", "-3", "-2"),
                ({"logit_bias": {5: 101}}, "options.sampling.logit_bias[5]", "101", "-100"),
                ({"logit_bias": {4096: 1}}, "options.sampling.logit_bias[4096]", "4096"),
                ({"logit_bias": {id: 1 for id in range(1025)}}, "options.sampling.logit_bias", "1025", "1024"),
                ({"banned_token_ids": [1, 4096]}, "options.sampling.banned_token_ids[1]", "4096"),
                ({"banned_token_ids": [1] * 1025}, "options.sampling.banned_token_ids", "1025", "1024"),
                ({"stop_token_ids": [2**32 - 1]}, "options.stop_token_ids[0]", "4294967295", "4096"),
                ({"stop_token_ids": [1] * 65}, "options.stop_token_ids", "65", "64"),
                ({"max_tokens": 8, "min_tokens": 9}, "options.min_tokens", "9", "8"),
                ({"top_logprobs": 21}, "options.top_logprobs", "21", "20"),
                ({"stop": ["x"] * 17}, "options.stop", "17", "16"),
                ({"stop": ["x", ""]}, "options.stop[1]", "0", "256"),
                ({"stop": ["x" * 257]}, "options.stop[0]", "257", "256"),
                ({"nodes": 129}, "options.speculation.nodes", "129", "128"),
                ({"nodes": -2}, "options.speculation.nodes", "-2", "-1"),
                ({"tree": 9}, "options.speculation.tree", "9"),
                ({"draft_scope": 9}, "options.draft_scope", "9"),
                ({"priority": 9}, "options.priority", "9")):
            with self.subTest(fields=fields):
                self.assert_invalid(lambda: self.client.ask(CHAT, **fields), field, *words)

    def test_context(self):
        tokens = len(self.client.tokenize(CHAT))
        refusal = refusal_of(lambda: self.client.ask(CHAT, max_tokens=1024))
        self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG"))
        for number in (str(tokens), "1024"):
            self.assertIn(number, refusal.message)
        self.assertEqual(refusal_of(lambda: self.client.ask([5] * 1024)).reason, "CONTEXT_TOO_LONG")
        self.assertEqual(len(self.client.ask([5] * 1023, ignore_eos=True).ids), 1)

    def test_models_and_tenants(self):
        for call in (lambda: self.client.ask(CHAT, model="gpt"),
                     lambda: self.client.models.GetModelInfo(model.GetModelInfoRequest(model="gpt"), timeout=10),
                     lambda: self.client.tokenize("x", model="gpt"),
                     lambda: self.client.detokenize([1], model="gpt")):
            refusal = refusal_of(call)
            self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"))
            self.assertIn("gpt", refusal.message)
        for tenant in ("a/b", "x" * 129):
            self.assert_invalid(lambda: Client(self.cluster.gateway, tenant).ask(CHAT), "x-clamor-tenant")

    def test_tokenizer(self):
        self.assert_invalid(lambda: self.client.generation.Tokenize(generation.TokenizeRequest(), timeout=10), "input")
        self.assert_invalid(lambda: self.client.tokenize([("wizard", "hi")]), "chat.messages[0].role")
        self.assert_invalid(lambda: self.client.detokenize([1, 4096]), "token_ids[1]", "4096")

    def test_messages_that_grpc_itself_refuses(self):
        generate = self.client.channel.unary_unary("/clamor.v1.GenerationService/Generate")
        for name, wire in (("invalid UTF-8", b"\x12\x02\xff\xfe"), ("no message", b"\xff\xff\xff"), ("17 MiB", bytes(17 << 20))):
            with self.subTest(name):
                refusal = refusal_of(lambda: generate(wire, timeout=10))
                self.assertNotIn(refusal.code, (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE,
                                                grpc.StatusCode.DEADLINE_EXCEEDED))
        unknown = self.client.channel.unary_unary("/clamor.v1.GenerationService/Guess")
        self.assertEqual(refusal_of(lambda: unknown(b"", timeout=10)).code, grpc.StatusCode.UNIMPLEMENTED)

    def test_the_worker_checks_for_itself(self):
        stub = client.worker_grpc.WorkerServiceStub(client.connect(self.cluster.worker))

        def ask(**fields):
            request = client.worker.WorkerServiceStreamGenerateRequest(**{"tenant": "t", "prompt_ids": [5], **fields})
            return lambda: client.collect(stub.StreamGenerate(request, timeout=10))

        self.assert_invalid(ask(prompt_ids=[]), "prompt_ids")
        self.assert_invalid(ask(prompt_ids=[5, 4096]), "prompt_ids[1]", "4096")
        self.assert_invalid(ask(emitted_ids=[2**31]), "emitted_ids[0]", "2147483648")
        self.assert_invalid(ask(tenant="a/b"), "tenant")
        self.assert_invalid(ask(options=client.options(temperature=1)), "options.sampling.seed")
        self.assert_invalid(ask(options=client.options(nodes=129)), "options.speculation.nodes", "129")
        self.assert_invalid(ask(options=client.options(logit_bias={4096: 1})), "options.sampling.logit_bias[4096]", "4096")
        self.assert_invalid(ask(options=client.options(banned_token_ids=[4096])), "options.sampling.banned_token_ids[0]",
                            "4096")
        self.assert_invalid(ask(options=client.options(stop_token_ids=[4096])), "options.stop_token_ids[0]", "4096")
        self.assert_invalid(ask(options=client.options(stop=[""])), "options.stop[0]", "256")
        self.assert_invalid(ask(options=client.options(top_logprobs=21)), "options.top_logprobs", "21", "20")
        self.assertEqual(refusal_of(ask(prompt_ids=[5] * 1024, options=client.options(max_tokens=1))).reason,
                         "CONTEXT_TOO_LONG")

    def test_the_store_checks_for_itself(self):
        stub = client.retrieval_grpc.RetrievalServiceStub(client.connect(self.cluster.retrieval))
        space = client.retrieval.Namespace(tenant="t", tokenizer_fingerprint="ab")

        def append(**fields):
            document = client.retrieval.Document(**{"namespace": space, "id": "d", "tokens": [1], **fields})
            return lambda: stub.Append(client.retrieval.AppendRequest(documents=[document]), timeout=10)

        def look_up(**fields):
            query = client.retrieval.LookupQuery(**{"namespace": space, "context": [1], **fields})
            return lambda: stub.Lookup(client.retrieval.LookupRequest(queries=[query]), timeout=10)

        self.assert_invalid(append(tokens=[]), "documents[0].tokens", "0")
        self.assert_invalid(append(id=""), "documents[0].id", "0")
        self.assert_invalid(append(namespace=client.retrieval.Namespace(tenant="a b", tokenizer_fingerprint="ab")),
                            "documents[0].namespace.tenant")
        self.assert_invalid(look_up(max_nodes=1025), "queries[0].max_nodes", "1025", "1024")
        self.assert_invalid(look_up(namespace=client.retrieval.Namespace(tenant="t", tokenizer_fingerprint="XY")),
                            "queries[0].namespace.tokenizer_fingerprint")
        self.assert_invalid(lambda: stub.Lookup(client.retrieval.LookupRequest(), timeout=10), "queries", "0")


if __name__ == "__main__":
    main()
