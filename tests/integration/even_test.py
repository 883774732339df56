"""Streams at an even pace and padded: the answers are the same, and who watches the line sees messages of one size at an even pace."""
import contextlib
import json
import socket
import struct
import subprocess
import threading

from client import Client, QUESTIONS, collect
from cluster import BIN_DIR, ClusterTest, SECONDS, main
from openai_client import CHAT, Api, data_of

PAD, CADENCE = 1024, 0.05
FIELDS = dict(max_tokens=60, ignore_eos=True, temperature=0.8, seed=3)
MANY = {**FIELDS, "max_tokens": 400}  # takes several beats on any machine


class Observer:
    """Stands between a client and a gateway, as whoever owns the line, and keeps what the gateway sends."""

    def __init__(self, address):
        self.target = address.rsplit(":", 1)
        self.seen = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.api = self.address
        self.sockets = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection((self.target[0], int(self.target[1])))
                self.sockets += [client, server]
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source, sink, watched):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if watched:
                    self.seen.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def bytes(self):
        return b"".join(self.seen)

    def close(self):
        for each in self.sockets:
            each.close()


def grpc_messages(line):
    """The messages in the DATA frames of one connection of HTTP/2."""
    data, at = b"", 0
    while at < len(line):
        length, kind, flags = int.from_bytes(line[at:at + 3], "big"), line[at + 3], line[at + 4]
        if kind == 0:
            assert not flags & 8, "padded by HTTP/2"
            data += line[at + 9:at + 9 + length]
        at += 9 + length
    messages = []
    while data:
        compressed, length = struct.unpack(">BI", data[:5])
        assert not compressed
        messages.append(data[5:5 + length])
        data = data[5 + length:]
    return messages


def http_chunks(line):
    """The chunks of the answer of one connection of HTTP/1.1."""
    body, chunks = line.partition(b"\r\n\r\n")[2], []
    while body:
        size, _, body = body.partition(b"\r\n")
        if int(size, 16) == 0:
            break
        chunks.append(body[:int(size, 16)])
        body = body[int(size, 16) + 2:]
    return chunks


def grpc_answer(events):
    """Ids and text, and how many tokens each message has."""
    deltas = [event.delta for event in events if event.HasField("delta")]
    return ([token for delta in deltas for token in delta.token_ids], "".join(delta.text for delta in deltas)), \
        [len(delta.token_ids) for delta in deltas]


def openai_answer(text):
    """Ids, if they are there, text and how it ended."""
    data = list(data_of(text))
    assert data.pop() == "[DONE]", text
    choices = [choice for chunk in data for choice in json.loads(chunk)["choices"]]
    return ([token["id"] for choice in choices for token in choice.get("clamor", {}).get("tokens", [])],
            "".join(choice["delta"].get("content") or "" for choice in choices),
            [choice["finish_reason"] for choice in choices if choice["finish_reason"]])


class EvenTest(ClusterTest):
    gateway_flags = ("--pad-chunks", str(PAD), "--cadence", str(CADENCE))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.plain = cls.cluster.add("clamor-gateway", "--workers", cls.cluster.worker.address, label="-plain").wait_ready()
        cls.even = cls.cluster.gateway

    def observe(self, address):
        observer = Observer(address)
        self.addCleanup(observer.close)
        return observer

    def ask_grpc(self, gateway, question):
        """The answer, as grpc_answer, and the sizes of the messages that brought it."""
        observer = self.observe(gateway.address)
        client = Client(observer)
        self.addCleanup(client.channel.close)
        events = list(client.start([("user", question)], **MANY))
        collect(events)
        return *grpc_answer(events), [len(message) for message in grpc_messages(observer.bytes())]

    def ask_openai(self, gateway, question, tokens):
        """Likewise of OpenAI's API."""
        observer = self.observe(gateway.api)
        body = {"stream": True, "messages": [{"role": "user", "content": question}], "clamor": {"tokens": tokens}, **FIELDS}
        response = Api(observer).send("POST", CHAT, body)
        self.assertEqual(response.status, 200)
        text = response.read().decode()
        return openai_answer(text), [len(chunk) for chunk in http_chunks(observer.bytes())]

    def test_grpc_gives_the_same_and_tells_nothing(self):
        numbers = set()
        for question in QUESTIONS[:4]:
            plain, _, plain_sizes = self.ask_grpc(self.plain, question)
            even, tokens, sizes = self.ask_grpc(self.even, question)
            self.assertEqual(even, plain)
            self.assertEqual(len(even[0]), MANY["max_tokens"])
            self.assertGreater(len(set(plain_sizes)), 3, "without the flags a message's size tells what is in it")
            self.assertEqual(set(sizes), {PAD})
            numbers |= set(tokens)
        self.assertGreater(len(numbers), 2, "messages of one size had different numbers of tokens")

    def test_openai_gives_the_same_and_tells_nothing(self):
        for question in QUESTIONS[:4]:
            plain, plain_sizes = self.ask_openai(self.plain, question, tokens=False)
            even, sizes = self.ask_openai(self.even, question, tokens=False)
            self.assertEqual(even, plain)
            self.assertGreater(len(set(plain_sizes)), 3)
            self.assertEqual(set(sizes), {PAD})
            # What takes more than PAD bytes is rounded up.
            plain, _ = self.ask_openai(self.plain, question, tokens=True)
            even, sizes = self.ask_openai(self.even, question, tokens=True)
            self.assertEqual(even, plain)
            self.assertEqual(len(even[0]), FIELDS["max_tokens"])
            self.assertEqual({size % PAD for size in sizes}, {0})

    def test_a_silent_worker_sounds_like_any_other(self):
        events = Client(self.even).start([("user", QUESTIONS[0])], **MANY)
        read = [next(events)]
        self.cluster.worker.pause()
        try:
            while [grpc_answer([event])[1] for event in read[-5:]] != [[0]] * 5:
                read.append(next(events))
        finally:
            self.cluster.worker.resume()
        read += events
        self.assertEqual({event.ByteSize() for event in read}, {PAD})
        self.assertEqual(len(collect(read).ids), MANY["max_tokens"])

    def test_what_is_not_a_stream_is_as_it_was(self):
        plain, even = [Client(gateway).ask_unary([("user", QUESTIONS[0])], **FIELDS) for gateway in (self.plain, self.even)]
        self.assertEqual((list(even.token_ids), even.text), (list(plain.token_ids), plain.text))

    def test_flags(self):
        for flags, message in (("--cadence", "0.1"), "--cadence needs --pad-chunks"), \
                (("--pad-chunks", "512", "--max-pending-bytes", "2048"), "--pad-chunks is 512, must be at most 32"):
            run = subprocess.run([BIN_DIR / "clamor-gateway", "--workers", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--http",
                                  "127.0.0.1:0", "--api", "127.0.0.1:0", *flags], capture_output=True, text=True, timeout=SECONDS)
            self.assertEqual(run.returncode, 1, run.stderr)
            self.assertIn(message, run.stderr)


if __name__ == "__main__":
    main()
