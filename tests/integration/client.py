"""A client as its users write one: stubs generated from proto/, and the checks that every stream must pass."""
import collections
import dataclasses
import json
import os
import sys
import threading

import grpc

from cluster import ROOT, SECONDS

STUBS_DIR = os.environ.get("CLAMOR_STUBS_DIR", str(ROOT / "build/release/tests/integration/stubs"))
sys.path.insert(0, STUBS_DIR)
grpc.__path__.append(os.path.join(STUBS_DIR, "grpc"))  # grpc.health.v1 lives in a package that is there already

from clamor.v1 import admin_pb2 as admin, admin_pb2_grpc as admin_grpc
from clamor.v1 import faults_pb2 as faults, faults_pb2_grpc as faults_grpc
from clamor.v1 import generation_pb2 as generation, generation_pb2_grpc as generation_grpc
from clamor.v1 import model_pb2 as model, model_pb2_grpc as model_grpc
from clamor.v1 import session_pb2 as session, session_pb2_grpc as session_grpc
from clamor.v1 import retrieval_pb2 as retrieval, retrieval_pb2_grpc as retrieval_grpc
from clamor.v1 import worker_pb2 as worker, worker_pb2_grpc as worker_grpc
from google.rpc import error_details_pb2, status_pb2
from grpc.health.v1 import health_pb2 as health, health_pb2_grpc as health_grpc
import reflection_pb2
import reflection_pb2_grpc

QUESTIONS = [json.loads(line)["question"] for line in (ROOT / "tests/testdata/gsm8k/test-40.jsonl").open()]
PUBLISHED = generation.DRAFT_TREE_PUBLISHED


def options(**fields):
    """GenerationOptions; fields of `sampling` and `speculation` may be given by their own names."""
    parts = {"sampling": {}, "speculation": {}}
    for part, kind in (("sampling", generation.SamplingParameters), ("speculation", generation.SpeculationOptions)):
        for name in kind.DESCRIPTOR.fields_by_name.keys() & fields.keys():
            parts[part][name] = fields.pop(name)
    return generation.GenerationOptions(**parts, **fields)


def prompt(value):
    """The prompt fields of a request: text, token ids, or a conversation of (role, content)."""
    if isinstance(value, str):
        return {"text": value}
    if value and isinstance(value[0], tuple):
        return {"messages": [generation.ChatMessage(role=role, content=content) for role, content in value]}
    return {"token_ids": generation.TokenIds(ids=value)}


@dataclasses.dataclass
class Answer:
    started: generation.Started
    finished: generation.Finished
    ids: list
    text: str
    sources: list
    logprobs: list  # as sources, empty if not asked for

    @property
    def tokens_per_forward(self):
        return len(self.ids) / self.finished.speculation.forwards


def collect(events, on_tokens=lambda count: None, on_started=lambda started: None):
    """The Answer of a stream; AssertionError if it is not one Started, Deltas without gaps and one Finished."""
    started = finished = None
    ids, text, sources, logprobs, text_bytes = [], "", [], [], 0
    for event in events:
        kind = event.WhichOneof("event")
        assert finished is None, f"{kind} after Finished"
        assert (kind == "started") == (started is None), f"{kind} out of order"
        if kind == "started":
            started = event.started
            on_started(started)
        elif kind == "finished":
            finished = event.finished
        else:
            assert event.delta.first_token_index == len(ids), (event.delta.first_token_index, len(ids))
            assert event.delta.first_text_byte == len(text.encode()), (event.delta.first_text_byte, len(text.encode()))
            assert len(event.delta.sources) == len(event.delta.token_ids) == len(event.delta.text_bytes), event.delta
            text_bytes += sum(event.delta.text_bytes)
            ids += event.delta.token_ids
            sources += event.delta.sources
            logprobs += event.delta.logprobs
            assert len(logprobs) in (0, len(ids)), event.delta
            text += event.delta.text
            on_tokens(len(ids))
    assert finished is not None, "the stream ended without Finished"
    check_counts(started, finished, ids, sources)
    assert finished.matched_stop or text_bytes <= len(text.encode()), (text_bytes, text)  # an unfinished character comes at last
    return Answer(started, finished, ids, text, sources, logprobs)


def check_counts(started, finished, ids, sources):
    assert finished.usage.completion_tokens == len(ids), (finished.usage, len(ids))
    assert finished.usage.prompt_tokens == started.prompt_tokens, (finished.usage, started)
    drafted = collections.Counter(generation.DraftSource.Name(source)[len("DRAFT_SOURCE_"):].lower() for source in sources)
    del drafted["unspecified"]
    accepted = {field.name: count for field, count in finished.speculation.accepted.ListFields()}
    assert accepted == drafted, (drafted, finished.speculation)
    assert len(ids) == 0 or 1 <= finished.speculation.forwards <= len(ids), finished.speculation


class Stream:
    """A stream that a thread reads."""

    def __init__(self, call):
        self.call = call
        self.tokens = 0  # so far
        self.started = None  # as soon as it has
        self._answer = self._error = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            self._answer = collect(self.call, on_tokens=self._count, on_started=self._start)
        except Exception as error:  # whatever it is, `answer` raises it
            self._error = error

    def _start(self, started):
        self.started = started

    def _count(self, tokens):
        self.tokens = tokens

    def running(self):
        return self._thread.is_alive()

    def answer(self):
        """The Answer once the stream has ended, or its error raised."""
        self._thread.join(SECONDS)
        assert not self.running(), f"the stream still runs after {SECONDS} s"
        if self._error is not None:
            raise self._error
        return self._answer


class Client:
    """One connection to a gateway."""

    def __init__(self, server, tenant=None, options=()):
        self.channel = connect(server, options)
        self.metadata = [("x-clamor-tenant", tenant)] if tenant else []
        self.generation = generation_grpc.GenerationServiceStub(self.channel)
        self.models = model_grpc.ModelServiceStub(self.channel)
        self.sessions = session_grpc.SessionServiceStub(self.channel)

    def start(self, text, seconds=SECONDS, model="", **fields):
        """The running call of a stream."""
        kind, method = ((generation.StreamChatRequest, self.generation.StreamChat) if "messages" in prompt(text) else
                        (generation.StreamGenerateRequest, self.generation.StreamGenerate))
        request = kind(model=model, options=options(**fields), **prompt(text))
        return method(request, timeout=seconds, metadata=self.metadata)

    def say(self, name, text, expected_version=None, **fields):
        """The running call of a stream that adds a turn to a session."""
        turn = generation.SessionTurn(name=name, expected_version=expected_version)
        request = generation.StreamChatRequest(session=turn, options=options(**fields), **prompt([("user", text)]))
        return self.generation.StreamChat(request, timeout=SECONDS, metadata=self.metadata)

    def resume(self, stream_id, tokens=0, text_bytes=0):
        """What is missing of a stream: ids, text and the Finished."""
        ids, text, finished = [], "", None
        request = generation.ResumeStreamRequest(stream_id=stream_id, next_token_index=tokens, next_text_byte=text_bytes)
        for event in self.generation.ResumeStream(request, timeout=SECONDS, metadata=self.metadata):
            if event.WhichOneof("event") == "delta":
                assert event.delta.first_token_index == tokens + len(ids), event
                assert event.delta.first_text_byte == text_bytes + len(text.encode()), event
                ids += event.delta.token_ids
                text += event.delta.text
            elif event.WhichOneof("event") == "finished":
                finished = event.finished
        assert finished is not None, "the stream ended without Finished"
        return ids, text, finished

    def create_session(self, name):
        return self.sessions.CreateSession(session.CreateSessionRequest(name=name), timeout=SECONDS,
                                           metadata=self.metadata).session

    def turns(self, name):
        """Of a session, oldest first."""
        parts = self.sessions.ExportSession(session.ExportSessionRequest(name=name), timeout=SECONDS, metadata=self.metadata)
        return [part.turn for part in parts if part.HasField("turn")]

    def ask(self, text, **fields):
        return collect(self.start(text, **fields))

    def ask_unary(self, text, **fields):
        """The answer of Generate or Chat, or a list of them if `n` says so."""
        kind, method = ((generation.ChatRequest, self.generation.Chat) if "messages" in prompt(text) else
                        (generation.GenerateRequest, self.generation.Generate))
        response = method(kind(options=options(**fields), **prompt(text)), timeout=SECONDS, metadata=self.metadata)
        return list(response.answers) if "n" in fields else response.answers[0]

    def tokenize(self, text, **fields):
        if not isinstance(text, str):
            fields["chat"] = generation.ChatMessages(**prompt(text))
        else:
            fields["text"] = text
        return list(self.generation.Tokenize(generation.TokenizeRequest(**fields), timeout=SECONDS).token_ids)

    def detokenize(self, ids, **fields):
        return self.generation.Detokenize(generation.DetokenizeRequest(token_ids=ids, **fields), timeout=SECONDS).text


def connect(server, options=()):
    return grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1), *options])


@dataclasses.dataclass
class Refusal:
    """An error as its status and details tell it."""
    code: grpc.StatusCode
    reason: str  # of ErrorInfo; empty if there is none
    message: str
    fields: list  # that BadRequest names
    retry: bool  # whether RetryInfo is there


def refusal_of(call):
    """The Refusal that the function `call` ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError("the call succeeded")


def read_refusal(error):
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    info = detail_of(status, error_details_pb2.ErrorInfo)
    bad_request = detail_of(status, error_details_pb2.BadRequest)
    assert not status.details or info.domain == "clamor", status
    return Refusal(code=error.code(), reason=info.reason if info else "", message=error.details(),
                   fields=[violation.field for violation in bad_request.field_violations] if bad_request else [],
                   retry=detail_of(status, error_details_pb2.RetryInfo) is not None)


def detail_of(status, kind):
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None
