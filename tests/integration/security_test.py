"""TLS and mTLS on every hop, and API keys, with real processes and real certificates."""
import hashlib
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import threading
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

    def make(self, name, names="DNS:localhost,IP:127.0.0.1", days=2):
        """NAME.pem and NAME.key, both replaced at once if they are there; with negative days its time is over."""
        new = f"{name}-new"
        self.path("ext", new).write_text(f"subjectAltName={names}\n")
        self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", self.path("key", new), "-out", self.path("csr", new))
        self._openssl("x509", "-req", "-in", self.path("csr", new), "-CA", self.path("pem"), "-CAkey", self.path("key"),
                      "-CAcreateserial", "-days", days, "-extfile", self.path("ext", new), "-out", self.path("pem", new))
        for ending in ("key", "pem"):
            self.path(ending, new).rename(self.path(ending, name))
        return ["--tls-cert", self.path("pem", name), "--tls-key", self.path("key", name)]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty SETTINGS


def server_context(authority, name, only=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.path("pem", name), authority.path("key", name))
    context.set_alpn_protocols(["h2"])
    return limit(context, only)


def client_context(ca, certificate=None, only=None):
    context = ssl.create_default_context(cafile=ca.path("pem"))
    if certificate:
        authority, name = certificate
        context.load_cert_chain(authority.path("pem", name), authority.path("key", name))
    context.set_alpn_protocols(["h2"])
    return limit(context, only)


def limit(context, version):
    """To a version that is too old for OpenSSL as it comes."""
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


class Listener:
    """Takes connections, shows the certificate that it is told to, and tells whether who came then spoke to it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._context, self._outcomes = None, []  # of the case under way
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, context):
        """Of the next connections; without a context they are plain."""
        with self._lock:
            self._context, self._outcomes = context, []

    def outcomes(self):
        """Of the connections since `show`: "spoke" or "left"."""
        with self._lock:
            return list(self._outcomes)

    def close(self):
        self._socket.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                context, outcomes = self._context, self._outcomes
            threading.Thread(target=self._hear, args=(connection, context, outcomes), daemon=True).start()

    def _hear(self, connection, context, outcomes):
        outcome = "left"
        connection.settimeout(SECONDS)
        try:
            with context.wrap_socket(connection, server_side=True) if context else connection as heard:
                data = heard.recv(64)
                if data and (context or data[:1] in (b"P", b"*")):  # what comes in plain may be a hello of TLS
                    outcome = "spoke"
        except OSError:  # of ssl, too
            pass
        with self._lock:
            outcomes.append(outcome)


def gets_in(server, context):
    """Whether the server talks HTTP/2 with a client of that context; None: without TLS."""
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=host) if context else connection as talk:
                talk.sendall(PREFACE)
                head = talk.recv(9)
                return len(head) == 9 and head[3] == 4  # SETTINGS
        except OSError:
            return False


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
    def start(cls, name, *flags, **fields):
        server = Server(name, cls.folder, *flags, **fields)
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

    def test_who_may_speak_to_each_server(self):
        self.outside.make("stranger")
        self.inside.make("friend")
        self.inside.make("late", days=-1)
        plain, old = None, client_context(self.inside, (self.inside, "friend"), ssl.TLSVersion.TLSv1_1)
        for server in (self.gateway, self.worker, self.retrieval):
            for version in (None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                self.assertTrue(gets_in(server, client_context(self.inside, (self.inside, "friend"), version)), server.name)
            for wrong in (plain, old):
                self.assertFalse(gets_in(server, wrong), server.name)
        for server in (self.worker, self.retrieval):
            for wrong in (client_context(self.inside), client_context(self.inside, (self.outside, "stranger")),
                          client_context(self.inside, (self.inside, "late"))):
                self.assertFalse(gets_in(server, wrong), server.name)
        self.assertTrue(gets_in(self.gateway, client_context(self.inside)))  # which wants keys instead

    def test_whom_each_client_believes(self):
        """Every hop, against every kind of wrong server: nothing is said to it, and all is well with the right one."""
        self.inside.make("right")
        self.inside.make("late", days=-1)
        self.inside.make("elsewhere", names="DNS:elsewhere.example")
        self.outside.make("outside")
        cases = {"of another authority": server_context(self.outside, "outside"),
                 "expired": server_context(self.inside, "late"),
                 "of another name": server_context(self.inside, "elsewhere"),
                 "too old": server_context(self.inside, "right", ssl.TLSVersion.TLSv1_1),
                 "without TLS": None,
                 "right": server_context(self.inside, "right")}
        hops = {hop: Listener() for hop in ("gateway to worker", "gateway to Redis", "gateway to collector", "worker to store",
                                            "command line to gateway")}
        for listener in hops.values():
            self.addCleanup(listener.close)
        ca = self.inside.path("pem")
        gateway = self.start("clamor-gateway", "--workers", hops["gateway to worker"].address, "--tls-ca", ca, "--sessions-ca", ca,
                             "--sessions", f"rediss://{hops['gateway to Redis'].address}/0",
                             "--otlp-endpoint", hops["gateway to collector"].address, "--otlp-tls", label="-hops")
        worker = self.start("clamor-worker", "--model", DEMO_MODEL, "--threads", 1, "--tls-ca", ca,
                            "--retrieval", hops["worker to store"].address, label="-hops").wait_ready()
        answers = client.worker_grpc.WorkerServiceStub(client.connect(worker))
        asks = generation_grpc.GenerationServiceStub(client.connect(gateway))
        for case, context in cases.items():
            for listener in hops.values():
                listener.show(context)
            request = client.worker.WorkerServiceStreamGenerateRequest(tenant="t", prompt_ids=[5, 6, 7], options=options(max_tokens=3))
            self.assertTrue(list(answers.StreamGenerate(request, timeout=SECONDS)))  # and adds it to the store
            refusal_of(lambda: asks.Tokenize(generation.TokenizeRequest(text="x"), timeout=SECONDS))  # and sends its span
            failed = subprocess.run([BIN_DIR / "clamor", "generate", "--server", hops["command line to gateway"].address,
                                     "--tls-ca", ca, "--prompt", "x"], capture_output=True, timeout=SECONDS)
            self.assertEqual(failed.returncode, 1)
            for hop, listener in hops.items():
                wait_until(lambda: gateway.get("/metrics") and listener.outcomes(), f"{hop}, {case}: somebody came")
                if case == "right":
                    wait_until(lambda: "spoke" in listener.outcomes(), f"{hop}: the right one is believed")
                else:
                    self.assertEqual(set(listener.outcomes()), {"left"}, f"{hop}, {case}")
        # The old server is one, for whoever still speaks to such.
        hops["gateway to worker"].show(cases["too old"])
        context = client_context(self.inside, only=ssl.TLSVersion.TLSv1_1)
        with socket.create_connection(("127.0.0.1", hops["gateway to worker"].port)) as connection:
            with context.wrap_socket(connection, server_hostname="127.0.0.1") as talk:
                self.assertEqual(talk.version(), "TLSv1.1")
                talk.sendall(PREFACE)
        wait_until(lambda: "spoke" in hops["gateway to worker"].outcomes(), "it was spoken to")

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
