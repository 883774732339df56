"""TLS and mTLS on every hop, and API keys, with real processes and real certificates."""
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import grpc

import client
from client import QUESTIONS, Stream, collect, generation, generation_grpc, options, refusal_of
from cluster import BIN_DIR, DEMO_MODEL, SECONDS, Server, main, wait_until


class Authority:
    """A folder of certificates."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", f"/CN={name}", "-keyout", self.path("key"), "-out", self.path("pem"))

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def path(self, ending, name=None):
        return self.folder / f"{name or self.name}.{ending}"

    def make(self, name, names="DNS:localhost,IP:127.0.0.1"):
        """NAME.pem and NAME.key, both replaced at once if they are there."""
        new = f"{name}-new"
        self.path("ext", new).write_text(f"subjectAltName={names}\n")
        self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", self.path("key", new), "-out", self.path("csr", new))
        self._openssl("x509", "-req", "-in", self.path("csr", new), "-CA", self.path("pem"), "-CAkey", self.path("key"),
                      "-CAcreateserial", "-days", "2", "-extfile", self.path("ext", new), "-out", self.path("pem", new))
        for ending in ("key", "pem"):
            self.path(ending, new).rename(self.path(ending, name))
        return ["--tls-cert", self.path("pem", name), "--tls-key", self.path("key", name)]


class SecurityTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="clamor-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.inside, cls.outside = Authority(cls.folder, "inside"), Authority(cls.folder, "outside")
        cls.key = "0123456789abcdef"
        cls.keys = cls.folder / "keys"
        cls.write_keys(cls.key)
        cls.servers = []
        trusts = ["--tls-ca", cls.inside.path("pem"), "--tls-client-ca", cls.inside.path("pem")]
        retrieval = cls.start("clamor-retrieval", "--store", cls.folder / "store", *cls.inside.make("retrieval"), *trusts)
        worker = cls.start("clamor-worker", "--model", DEMO_MODEL, "--threads", 1, "--retrieval", retrieval.address,
                           "--health", "127.0.0.1:0", *cls.inside.make("worker"), *trusts)
        gateway = cls.start("clamor-gateway", "--workers", worker.address, "--api-keys", cls.keys,
                            *cls.inside.make("gateway"), "--tls-ca", cls.inside.path("pem"))
        cls.retrieval, cls.worker, cls.gateway = retrieval, worker, gateway
        for server in cls.servers:
            server.wait_ready()

    @classmethod
    def start(cls, name, *flags):
        server = Server(name, cls.folder, *flags)
        cls.servers.append(server)
        server.start()
        cls.addClassCleanup(cls.stop, server)
        return server

    @staticmethod
    def stop(server):
        server.terminate()
        status = server.wait_exit()
        if status != 0:
            raise AssertionError(f"{server.name} exited with {status}\n{server.log_tail()}")

    @classmethod
    def write_keys(cls, *keys):
        cls.keys.write_text("".join(f"key {hashlib.sha256(key.encode()).hexdigest()} acme\n" for key in keys))

    def stub(self, authority=None):
        credentials = grpc.ssl_channel_credentials((authority or self.inside).path("pem").read_bytes())
        channel = grpc.secure_channel(self.gateway.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])
        return generation_grpc.GenerationServiceStub(channel)

    def ask(self, stub, key, **fields):
        request = generation.StreamGenerateRequest(text=QUESTIONS[0], options=options(max_tokens=20, **fields))
        metadata = [("authorization", f"Bearer {key}")] if key else []
        return stub.StreamGenerate(request, timeout=SECONDS, metadata=metadata)

    def test_keys(self):
        stub = self.stub()
        self.assertEqual(len(collect(self.ask(stub, self.key, ignore_eos=True)).ids), 20)
        for key in (None, "wrong"):
            refusal = refusal_of(lambda: list(self.ask(stub, key)))
            self.assertEqual((refusal.code, refusal.reason), (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"))
        self.write_keys(self.key, "fedcba9876543210")  # takes effect without a restart
        wait_until(lambda: self.answers(stub, "fedcba9876543210"), "the new key is known")
        self.assertTrue(self.answers(stub, self.key))
        self.assertEqual(self.stats("acme").documents, self.stats("").documents)

    def answers(self, stub, key):
        try:
            return bool(collect(self.ask(stub, key, ignore_eos=True)).ids)
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
            return False

    def stats(self, tenant):
        """Of the store, as one who has a certificate of the authority inside."""
        credentials = grpc.ssl_channel_credentials(*(self.inside.path(ending, name).read_bytes() for ending, name in
                                                     (("pem", None), ("key", "gateway"), ("pem", "gateway"))))
        stub = client.retrieval_grpc.RetrievalServiceStub(grpc.secure_channel(self.retrieval.address, credentials))
        return stub.GetStats(client.retrieval.GetStatsRequest(tenant=tenant), timeout=SECONDS)

    def test_who_is_not_of_the_authority_stays_out(self):
        def code(channel, stub, request):
            with self.assertRaises(grpc.RpcError) as raised:
                stub(channel)(request, timeout=5)
            return raised.exception.code()

        load = lambda channel: client.worker_grpc.WorkerServiceStub(channel).GetLoad
        ca = self.inside.path("pem").read_bytes()
        self.outside.make("stranger")
        stranger = grpc.ssl_channel_credentials(ca, *(self.outside.path(e, "stranger").read_bytes() for e in ("key", "pem")))
        for channel in (grpc.insecure_channel(self.worker.address), grpc.secure_channel(self.worker.address, stranger),
                        grpc.secure_channel(self.worker.address, grpc.ssl_channel_credentials(ca))):
            self.assertEqual(code(channel, load, client.worker.GetLoadRequest()), grpc.StatusCode.UNAVAILABLE)
        refusal = refusal_of(lambda: list(self.ask(self.stub(self.outside), self.key)))
        self.assertEqual(refusal.code, grpc.StatusCode.UNAVAILABLE)

    def test_probes(self):
        ports = dict(line.split("=", 1) for line in (self.folder / "clamor-worker.ports").read_text().splitlines())
        stub = client.health_grpc.HealthStub(grpc.insecure_channel(ports["health"]))
        reply = stub.Check(client.health.HealthCheckRequest(service="clamor.v1.WorkerService"), timeout=SECONDS)
        self.assertEqual(reply.status, client.health.HealthCheckResponse.SERVING)

    def test_rotation_under_load(self):
        stub = self.stub()
        self.outside.make("gateway-outside")
        streams = [Stream(self.ask(stub, self.key, ignore_eos=True)) for _ in range(3)]
        request = generation.StreamGenerateRequest(text=QUESTIONS[1], options=options(max_tokens=400, ignore_eos=True, nodes=0))
        streams.append(Stream(stub.StreamGenerate(request, timeout=SECONDS, metadata=[("authorization", f"Bearer {self.key}")])))
        for name in ("retrieval", "worker", "gateway"):
            self.inside.make(name)  # new keys, the same authority
        for stream in streams:
            self.assertIn(len(stream.answer().ids), (20, 400))
        wait_until(lambda: self.answers(self.stub(), self.key), "a new connection is made")
        self.assertEqual(self.gateway.metric("clamor_gateway_worker_up", worker=self.worker.address), 1)

    def test_command_line(self):
        def run(*flags, **environment):
            command = [BIN_DIR / "clamor", "generate", "--server", self.gateway.address, "--prompt", "x", "--max-tokens", "5",
                       "--output", "json", *flags]
            return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=SECONDS)

        ca = ["--tls-ca", self.inside.path("pem")]
        self.assertEqual(len(json.loads(run(*ca, "--ignore-eos", CLAMOR_API_KEY=self.key).stdout)["token_ids"]), 5)
        key_file = self.folder / "key"
        key_file.write_text(self.key + "\n")
        self.assertEqual(run(*ca, "--api-key-file", key_file).returncode, 0)
        for flags, words in ((ca, "UNAUTHENTICATED"), (["--tls-ca", "none"], "--tls-ca"), ([], "UNAVAILABLE"),
                             (["--api-key-file", "none"], "--api-key-file")):
            failed = run(*flags)
            self.assertEqual(failed.returncode, 1, failed)
            self.assertIn(words, failed.stderr)


if __name__ == "__main__":
    main()
