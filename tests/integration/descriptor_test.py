"""What clients get beside the servers: the descriptor set, by which tools call without the .proto files or reflection, the
service config, the examples, and the reference made of the comments."""
import json
import os
import shutil
import subprocess
import sys
import unittest
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.message_factory import MessageFactory

import client
from client import Client, QUESTIONS
from cluster import BIN_DIR, ROOT, SECONDS, ClusterTest, main

PROTOSET = BIN_DIR.parent / "clamor.protoset"
CONFIG = ROOT / "deploy/examples/grpc-service-config.json"


def read_set():
    return descriptor_pb2.FileDescriptorSet.FromString(PROTOSET.read_bytes())


class Caller:
    """As grpcurl -protoset does: requests and answers are JSON, and nothing was generated."""

    def __init__(self, channel):
        self.channel = channel
        self.pool = descriptor_pool.DescriptorPool()
        for file in read_set().file:  # in the order of their imports
            self.pool.Add(file)
        self.factory = MessageFactory(self.pool)

    def call(self, method, request):
        """All answers to it."""
        service, name = method.split("/")
        found = self.pool.FindServiceByName(service).FindMethodByName(name)
        asked, answer = (self.factory.GetPrototype(kind) for kind in (found.input_type, found.output_type))
        streams = descriptor_pb2.MethodDescriptorProto()
        found.CopyToProto(streams)
        make = self.channel.unary_stream if streams.server_streaming else self.channel.unary_unary
        call = make(f"/{method}", request_serializer=asked.SerializeToString, response_deserializer=answer.FromString)
        answers = call(json_format.ParseDict(request, asked()), timeout=60)
        return [json_format.MessageToDict(each) for each in (answers if streams.server_streaming else [answers])]


class DescriptorSetTest(ClusterTest):

    def test_calls_without_stubs(self):
        with grpc.insecure_channel(self.cluster.gateway.address) as channel:
            caller = Caller(channel)
            expected = Client(self.cluster.gateway).ask([("user", QUESTIONS[0])], max_tokens=24)
            events = caller.call("clamor.v1.GenerationService/StreamChat",
                                 {"messages": [{"role": "user", "content": QUESTIONS[0]}], "options": {"maxTokens": 24}})
            self.assertEqual("".join(event["delta"].get("text", "") for event in events if "delta" in event), expected.text)
            (models,) = caller.call("clamor.v1.ModelService/ListModels", {})
            self.assertEqual(models["models"][0]["name"], "demo-model")

    def test_it_has_every_service_that_reflection_lists(self):
        known = {f"{file.package}.{service.name}" for file in read_set().file for service in file.service}
        for server in self.cluster.servers:
            stub = client.reflection_pb2_grpc.ServerReflectionStub(client.connect(server))
            (listed,) = stub.ServerReflectionInfo(iter([client.reflection_pb2.ServerReflectionRequest(list_services="*")]))
            names = {service.name for service in listed.list_services_response.service}
            self.assertLessEqual({name for name in names if not name.startswith("grpc.reflection.")}, known)

    def test_it_brings_the_comments(self):
        (file,) = [file for file in read_set().file if file.name == "clamor/v1/generation.proto"]
        comments = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
        for index, service in enumerate(file.service):
            for method in range(len(service.method)):
                self.assertTrue(comments.get((6, index, 2, method)), service.method[method].name)
        for index, message in enumerate(file.message_type):
            self.assertTrue(comments.get((4, index)), message.name)


class ServiceConfigTest(unittest.TestCase):
    """A server that is away for two tries: with the config a client does not notice, without it does."""

    METHOD = "/clamor.v1.GenerationService/Generate"

    def call(self, options):
        tries = []

        def answer(request, context):
            tries.append(request)
            if len(tries) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return b"done"

        handler = grpc.unary_unary_rpc_method_handler(answer)
        service, method = self.METHOD[1:].split("/")
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.addCleanup(server.stop, None)
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            return channel.unary_unary(self.METHOD)(b"", timeout=30), len(tries)

    def test_it_retries_what_may_be_retried(self):
        self.assertEqual(self.call([("grpc.service_config", CONFIG.read_text())]), (b"done", 3))
        with self.assertRaises(grpc.RpcError) as raised:
            self.call([])
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_it_speaks_of_services_that_exist(self):
        known = {f"{file.package}.{service.name}" for file in read_set().file for service in file.service}
        config = json.loads(CONFIG.read_text())
        named = {name["service"] for method in config["methodConfig"] for name in method["name"]}
        self.assertLessEqual(named | {config["healthCheckConfig"]["serviceName"]}, known)
        for method in config["methodConfig"]:
            for code in method["retryPolicy"]["retryableStatusCodes"]:
                self.assertIn(code, grpc.StatusCode.__members__)


class ExampleTest(ClusterTest):
    """The clients of deploy/examples, as their heads say that they are run."""

    def setUp(self):
        self.expected = Client(self.cluster.gateway).ask([("user", QUESTIONS[1])], max_tokens=256)

    def check(self, *command, **fields):
        done = subprocess.run([*command, QUESTIONS[1]], capture_output=True, text=True, timeout=SECONDS, **fields)
        self.assertEqual((done.returncode, done.stdout), (0, self.expected.text + "\n"), done.stderr)
        self.assertIn(f"{len(self.expected.ids)} tokens in ", done.stderr)

    def test_python(self):
        self.check(sys.executable, ROOT / "deploy/examples/python/chat.py", self.cluster.gateway.address,
                   env={**os.environ, "PYTHONPATH": client.STUBS_DIR})

    @unittest.skipUnless(os.environ.get("CLAMOR_GO_TEST") == "1", "CLAMOR_GO_TEST=1 builds it: that takes Go and its module proxy")
    def test_go(self):
        folder = self.cluster.folder / "go"
        shutil.copytree(ROOT / "deploy/examples", folder / "deploy/examples")
        (folder / "proto").symlink_to(ROOT / "proto")
        example = folder / "deploy/examples/go"
        for command in (["./generate.sh"], ["go", "mod", "tidy"], ["go", "build", "-o", "chat", "."]):
            subprocess.run(command, cwd=example, check=True)
        self.check("./chat", f"dns:///{self.cluster.gateway.address}", cwd=example)


class ReferenceTest(unittest.TestCase):

    def test_it_is_up_to_date(self):
        made = subprocess.run([sys.executable, ROOT / "proto/api_reference.py", PROTOSET], capture_output=True, text=True, check=True)
        self.assertEqual((ROOT / "deploy/api.md").read_text(), made.stdout, "make it again, as its head says")


if __name__ == "__main__":
    main()
