"""OpenAI's API of the gateway over real processes: by http.client, by curl and, where it is installed, by the openai package."""
import asyncio
import concurrent.futures
import importlib.util
import json
import os
import random
import shutil
import subprocess
import time
import unittest

from client import Client, QUESTIONS, options
from cluster import ClusterTest, SECONDS, main, wait_until
from openai_client import CHAT, Api

QUESTION = [{"role": "user", "content": QUESTIONS[0]}]
STREAMS = int(os.environ.get("CLAMOR_STREAMS", "60"))
SCHEMA = {"type": "object", "properties": {"zebra": {"type": "integer"}, "ant": {"enum": ["a", "b"]},
                                           "list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
          "required": ["zebra", "ant", "list"], "additionalProperties": False}


def text_of(chunks, choice=0):
    return "".join(each["delta"].get("content") or "" for chunk in chunks for each in chunk["choices"] if each["index"] == choice)


def tokens_of(chunks, choice=0):
    return [token for chunk in chunks for each in chunk["choices"] if each["index"] == choice
            for token in each.get("clamor", {}).get("tokens", [])]


class OpenAiTest(ClusterTest):

    def setUp(self):
        self.api = Api(self.cluster.gateway)
        self.grpc = Client(self.cluster.gateway)

    def grpc_answer(self, **fields):
        return self.grpc.ask([("user", QUESTIONS[0])], **fields)

    def test_ids_are_those_of_grpc(self):
        for fields in ({"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 7}, {"temperature": 1, "seed": 8}):
            with self.subTest(fields=fields):
                expected = self.grpc_answer(max_tokens=48, **fields)
                whole = self.api.ask(messages=QUESTION, max_tokens=48, clamor={"tokens": True}, **fields)
                choice = whole["choices"][0]
                self.assertEqual([token["id"] for token in choice["clamor"]["tokens"]], expected.ids)
                self.assertEqual(choice["message"]["content"], expected.text)
                self.assertEqual(whole["usage"]["completion_tokens"], len(expected.ids))
                self.assertEqual(whole["usage"]["prompt_tokens"], expected.started.prompt_tokens)
                chunks = self.api.stream(messages=QUESTION, max_tokens=48, stream_options={"include_usage": True},
                                         clamor={"tokens": True, "nodes": 16}, **fields)
                self.assertEqual([token["id"] for token in tokens_of(chunks)], expected.ids)
                self.assertEqual("".join(token["text"] for token in tokens_of(chunks)), expected.text)
                self.assertEqual(text_of(chunks), expected.text)
                self.assertEqual(chunks[-1]["choices"], [])
                self.assertEqual(chunks[-1]["usage"]["completion_tokens"], len(expected.ids))

    def test_completions(self):
        expected = self.grpc.ask("Q: What is 3 + 4?\nA:", max_tokens=20)
        for prompt in ("Q: What is 3 + 4?\nA:", self.grpc.tokenize("Q: What is 3 + 4?\nA:")):
            answer = self.api.ask("/v1/completions", prompt=prompt, max_tokens=20, temperature=0)
            self.assertEqual(answer["choices"][0]["text"], expected.text)
        chunks = self.api.stream("/v1/completions", prompt=prompt, max_tokens=20, temperature=0)
        self.assertEqual("".join(chunk["choices"][0]["text"] for chunk in chunks), expected.text)

    def test_the_trees_explain_the_answer(self):
        chunks = self.api.stream(messages=QUESTION, max_tokens=64, temperature=0,
                                 clamor={"tokens": True, "trees": True, "nodes": 16})
        tokens = tokens_of(chunks)
        trees = [tree for chunk in chunks for tree in chunk["choices"][0].get("clamor", {}).get("trees", [])]
        stats = chunks[-1]["choices"][0]["clamor"]
        self.assertEqual(len(trees), stats["forwards"])
        self.assertEqual(sum(len(tree["nodes"]) for tree in trees), stats["draft_nodes"])
        self.assertEqual(sum(len(tree["accepted"]) for tree in trees), sum(stats["accepted"].values()))
        self.assertGreater(sum(stats["accepted"].values()), 0)
        for tree in trees:
            self.assertLessEqual(len(tree["nodes"]), 16)
            for depth, node in enumerate(tree["accepted"]):
                token = tokens[tree["first_token_index"] + depth]
                self.assertEqual(tree["nodes"][node]["source"], token["source"])
                self.assertEqual(tree["nodes"][node]["parent"], tree["accepted"][depth - 1] + 1 if depth else 0)

    def test_options(self):
        whole = self.grpc_answer(max_tokens=48).text
        stop = whole[10:14]
        stopped = self.api.ask(messages=QUESTION, max_tokens=48, temperature=0, stop=stop)
        self.assertEqual(stopped["choices"][0]["message"]["content"], whole[:whole.index(stop)])
        self.assertEqual(stopped["choices"][0]["finish_reason"], "stop")
        cut = self.api.ask(messages=QUESTION, max_completion_tokens=5, temperature=0)
        self.assertEqual((cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]), ("length", 5))

        several = self.api.ask(messages=QUESTION, max_tokens=24, temperature=1, seed=5, n=3)
        self.assertEqual([choice["index"] for choice in several["choices"]], [0, 1, 2])
        streamed = self.api.stream(messages=QUESTION, max_tokens=24, temperature=1, seed=5, n=3)
        for index, choice in enumerate(several["choices"]):
            alone = self.api.ask(messages=QUESTION, max_tokens=24, temperature=1, seed=5 + index)
            self.assertEqual(choice["message"]["content"], alone["choices"][0]["message"]["content"])
            self.assertEqual(text_of(streamed, index), choice["message"]["content"])

    def test_logprobs(self):
        expected = self.grpc_answer(max_tokens=12, top_logprobs=3)
        content = self.api.ask(messages=QUESTION, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), len(expected.ids))
        for token, logprobs in zip(content, expected.logprobs):
            self.assertAlmostEqual(token["logprob"], logprobs.logprob, places=6)
            self.assertEqual([top["logprob"] for top in token["top_logprobs"]], [top.logprob for top in logprobs.top])
        self.assertEqual(b"".join(bytes(token["bytes"]) for token in content).decode(), expected.text)
        streamed = self.api.stream(messages=QUESTION, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3)
        self.assertEqual([token for chunk in streamed for choice in chunk["choices"] if choice["logprobs"]
                          for token in choice["logprobs"]["content"]], content)

    def test_json(self):
        for response_format in ({"type": "json_object"},
                                {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}}):
            for seed in range(3):
                answer = self.api.ask(messages=QUESTION, max_tokens=300, temperature=0.9, seed=seed, response_format=response_format)
                choice = answer["choices"][0]
                if choice["finish_reason"] == "length":
                    continue
                value = json.loads(choice["message"]["content"])
                self.assertIsInstance(value, dict)
                if response_format["type"] == "json_schema":
                    self.assertEqual(list(value), ["zebra", "ant", "list"], "in the order of the schema")
                    self.assertIn(value["ant"], ["a", "b"])
        refused = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "patternProperties": {}}}}
        status, error, _ = self.api.error("POST", CHAT, {"messages": QUESTION, "response_format": refused})
        self.assertEqual((status, error["code"], error["param"]), (400, "unsupported_schema", "response_format.json_schema.schema"))
        self.assertIn("patternProperties", error["message"])

    def test_models(self):
        models = json.loads(self.api.send("GET", "/v1/models").read())
        self.assertEqual([model["id"] for model in models["data"]], ["demo-model"])
        self.assertEqual(json.loads(self.api.send("GET", "/v1/models/demo-model").read())["id"], "demo-model")

    def test_errors(self):
        for body, status, code, param in (
                ({"messages": QUESTION, "model": "gpt-5"}, 404, "model_not_found", None),
                ({"messages": QUESTION, "max_tokens": 5000}, 400, "context_length_exceeded", None),
                ({"messages": QUESTION, "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
                ({"messages": QUESTION, "top_p": 2}, 400, "invalid_value", "top_p"),
                ({"messages": QUESTION, "n": 17}, 400, "invalid_value", "n"),
                ({"messages": QUESTION, "logit_bias": {"99999": 1}}, 400, "invalid_value", "logit_bias[99999]"),
                ({"messages": QUESTION, "tools": [{}]}, 400, "invalid_value", "tools"),
                ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
                ({"messages": []}, 400, "invalid_value", "messages")):
            for streamed in (False, True):
                with self.subTest(body=body, stream=streamed):
                    got, error, headers = self.api.error("POST", CHAT, {**body, "stream": streamed})
                    self.assertEqual((got, error["code"], error["param"]), (status, code, param), error)
                    self.assertTrue(headers["x-request-id"])
        self.assertEqual(self.api.error("GET", "/v1/nothing")[0], 404)
        self.assertEqual(self.api.error("POST", CHAT, {"messages": QUESTION}, {"Host": "evil.example"})[0], 421)
        self.assertEqual(self.api.error("POST", CHAT, {"messages": QUESTION}, {"Origin": "https://evil.example"})[0], 403)
        refused = self.cluster.gateway.metric("clamor_gateway_requests_total", method="ChatCompletions", outcome="refused")
        self.assertGreaterEqual(refused, 18)

    def test_a_client_that_hangs_up_frees_the_pages(self):
        response = self.api.send("POST", CHAT, {"messages": QUESTION, "stream": True, "ignore_eos": True})
        response.readline()
        worker = self.cluster.worker
        wait_until(lambda: worker.metric("clamor_requests_running") == 1, "it runs")
        response.close()
        wait_until(lambda: worker.metric("clamor_requests_running") == 0 and worker.metric("clamor_kv_pages_used") == 0,
                   "the worker has given all pages back", seconds=5)
        self.assertEqual(self.cluster.gateway.metric("clamor_gateway_streams_open"), 0)

    def test_broken_bodies_hurt_nobody(self):
        whole = json.dumps({"messages": QUESTION, "max_tokens": 2, "stop": ["x"], "logit_bias": {"5": 1}}).encode()
        rng = random.Random(4)
        statuses = set()
        for _ in range(200):
            body = bytearray(whole[:rng.randrange(len(whole))])
            for _ in range(rng.randrange(3)):
                if body:
                    body[rng.randrange(len(body))] = rng.randrange(256)
            response = self.api.send("POST", CHAT, bytes(body))
            response.read()
            statuses.add(response.status)
        self.assertLessEqual(statuses, {200, 400})
        self.assertTrue(self.cluster.gateway.alive())

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl(self):
        url = f"http://{self.api.address}{CHAT}"
        body = json.dumps({"messages": QUESTION, "max_tokens": 8, "temperature": 0, "stream": True})
        run = subprocess.run(["curl", "-sSN", url, "-H", "Content-Type: application/json", "-d", body],
                             capture_output=True, text=True, timeout=SECONDS, check=True)
        self.assertTrue(run.stdout.startswith("data: {") and run.stdout.endswith("data: [DONE]\n\n"), run.stdout)


class BusyTest(ClusterTest):
    worker_flags = ("--threads", "1", "--max-sequences", "1", "--max-waiting", "0")

    def test_a_full_queue_says_when_to_come_again(self):
        api = Api(self.cluster.gateway)
        running = api.send("POST", CHAT, {"messages": QUESTION, "stream": True, "ignore_eos": True})
        running.readline()
        for streamed in (False, True):
            status, error, headers = api.error("POST", CHAT, {"messages": QUESTION, "stream": streamed})
            self.assertEqual((status, error["type"], error["code"]), (429, "rate_limit_error", "queue_full"))
            self.assertGreaterEqual(int(headers["retry-after"]), 1)
        running.close()


class StoppingTest(ClusterTest):

    def test_what_runs_is_finished_first(self):
        gateway = self.cluster.gateway
        api = Api(gateway)
        expected = Client(gateway).ask([("user", QUESTIONS[0])], max_tokens=200, ignore_eos=True)
        response = api.send("POST", CHAT, {"messages": QUESTION, "stream": True, "max_tokens": 200, "ignore_eos": True, "temperature": 0})
        first = response.readline()
        gateway.terminate()
        wait_until(lambda: not gateway.ready(), "it drains")
        events = (first + response.read()).decode().split("\n\n")
        self.assertEqual(events[-2:], ["data: [DONE]", ""])
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        self.assertEqual(text_of(chunks), expected.text)
        self.assertEqual(gateway.wait_exit(), 0)


class ManyStreamsTest(ClusterTest):
    worker_flags = ("--threads", "1", "--max-sequences", "64", "--max-waiting", "2000", "--kv-tokens", "65536")
    gateway_flags = ("--max-waiting", "2000")

    def test_all_finish_right_while_probes_are_answered(self):
        gateway = self.cluster.gateway
        grpc = Client(gateway)
        expected = {number: grpc.ask([("user", QUESTIONS[number % len(QUESTIONS)])], max_tokens=16, temperature=1, seed=number).text
                    for number in range(min(STREAMS, 20))}
        api = Api(gateway)
        slowest = {"/healthz": 0.0, "/metrics": 0.0}

        async def one(number):
            number %= len(expected)
            body = json.dumps({"messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}], "max_tokens": 16,
                               "temperature": 1, "seed": number, "stream": True})
            host, port = api.address.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"POST {CHAT} HTTP/1.0\r\nHost: {api.address}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            answer = (await reader.read()).decode()
            writer.close()
            head, _, events = answer.partition("\r\n\r\n")
            events = events.split("\n\n")
            assert head.startswith("HTTP/1.1 200") and events[-2] == "data: [DONE]", answer[:500]
            assert text_of([json.loads(event.removeprefix("data: ")) for event in events[:-2]]) == expected[number]

        async def everybody():
            tasks = [asyncio.ensure_future(one(number)) for number in range(STREAMS)]
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                while not all(task.done() for task in tasks):
                    for path in slowest:
                        began = time.monotonic()
                        status, _ = await asyncio.get_running_loop().run_in_executor(pool, gateway.get, path)
                        assert status == 200, (path, status)
                        slowest[path] = max(slowest[path], time.monotonic() - began)
                    await asyncio.sleep(0.05)
            await asyncio.gather(*tasks)

        asyncio.run(asyncio.wait_for(everybody(), SECONDS * 10))
        print(f"{STREAMS} streams at once; slowest probe meanwhile:", ", ".join(f"{p} {1000 * s:.1f} ms" for p, s in slowest.items()))


@unittest.skipUnless(importlib.util.find_spec("openai"), "the openai package is not installed")
class OpenAiPackageTest(ClusterTest):

    def setUp(self):
        import openai
        self.openai = openai
        self.client = openai.OpenAI(base_url=f"http://{self.cluster.gateway.api}/v1", api_key="none", max_retries=0)
        self.expected = Client(self.cluster.gateway).ask([("user", QUESTIONS[0])], max_tokens=40)

    def test_it_works_unchanged(self):
        chat = self.client.chat.completions
        whole = chat.create(model="demo-model", messages=QUESTION, max_tokens=40, temperature=0)
        self.assertEqual(whole.choices[0].message.content, self.expected.text)
        again = chat.create(model="demo-model", max_tokens=5, temperature=0, messages=[
            *QUESTION, whole.choices[0].message.model_dump(), {"role": "user", "content": "Sure?"}])
        self.assertEqual(again.usage.completion_tokens, 5)
        chunks = list(chat.create(model="demo-model", messages=QUESTION, max_tokens=40, temperature=0, stream=True,
                                  stream_options={"include_usage": True}))
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), self.expected.text)
        self.assertEqual(chunks[-1].usage.completion_tokens, len(self.expected.ids))
        logprobs = chat.create(model="demo-model", messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2)
        self.assertEqual(len(logprobs.choices[0].logprobs.content[0].top_logprobs), 2)
        self.assertEqual(self.client.completions.create(model="demo-model", prompt="1, 2, 3,", max_tokens=4, temperature=0).usage.completion_tokens, 4)
        self.assertEqual([model.id for model in self.client.models.list()], ["demo-model"])
        sampled = [chat.create(model="demo-model", messages=QUESTION, max_tokens=20, seed=3).choices[0].message.content for _ in range(2)]
        self.assertEqual(sampled[0], sampled[1])

    def test_errors_and_cancel(self):
        chat = self.client.chat.completions
        with self.assertRaises(self.openai.NotFoundError):
            chat.create(model="gpt-5", messages=QUESTION)
        with self.assertRaises(self.openai.BadRequestError) as raised:
            chat.create(model="demo-model", messages=QUESTION, top_p=3)
        self.assertEqual(raised.exception.param, "top_p")
        stream = chat.create(model="demo-model", messages=QUESTION, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        wait_until(lambda: self.cluster.worker.metric("clamor_requests_running") == 0, "it was cancelled")


if __name__ == "__main__":
    main()
