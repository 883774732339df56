#!/usr/bin/env python3
"""Asks a question and prints the answer as it comes.

    python3 -m grpc_tools.protoc -Iproto --python_out=stubs --grpc_python_out=stubs \\
        proto/clamor/v1/*.proto proto/google/rpc/*.proto      # once, from the root of the repository, after `mkdir stubs`
    PYTHONPATH=stubs python3 deploy/examples/python/chat.py 127.0.0.1:7700 "How many legs do 7 cats have?"

A key for a gateway that wants one is taken from CLAMOR_API_KEY.
"""
import os
import pathlib
import sys
import time

import grpc

from clamor.v1 import generation_pb2, generation_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

# Retries of UNAVAILABLE (nothing is sent before a worker has admitted the request, so that is safe), balancing over all
# gateways of the name, and none that says it is not ready.
SERVICE_CONFIG = pathlib.Path(__file__).parents[1] / "grpc-service-config.json"


def details(error, kind):
    """The detail of that kind that an error carries, or None."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                detail = kind()
                if packed.Unpack(detail):
                    return detail
    return None


def answer(stub, question, metadata):
    """Prints the answer; returns its last message, with what it cost."""
    request = generation_pb2.StreamChatRequest(
        messages=[generation_pb2.ChatMessage(role="user", content=question)],
        options=generation_pb2.GenerationOptions(max_tokens=256))
    for event in stub.StreamChat(request, timeout=120, metadata=metadata):
        if event.HasField("delta"):
            print(event.delta.text, end="", flush=True)
        elif event.HasField("finished"):
            print()
            return event.finished
    raise RuntimeError("the stream ended without an end")


def main(address, question):
    key = os.environ.get("CLAMOR_API_KEY")
    metadata = [("authorization", f"Bearer {key}")] if key else []
    with grpc.insecure_channel(address, options=[("grpc.service_config", SERVICE_CONFIG.read_text())]) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        while True:
            try:
                finished = answer(stub, question, metadata)
                break
            except grpc.RpcError as error:
                retry = details(error, error_details_pb2.RetryInfo)  # a full queue says when to come back
                if retry is None:
                    info = details(error, error_details_pb2.ErrorInfo)
                    sys.exit(f"{error.code().name} {info.reason if info else ''}: {error.details()}")
                time.sleep(retry.retry_delay.ToTimedelta().total_seconds())
    tokens, forwards = finished.usage.completion_tokens, finished.speculation.forwards
    print(f"{tokens} tokens in {forwards} forwards: {tokens / max(forwards, 1):.2f} tokens per forward", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: chat.py HOST:PORT QUESTION")
    main(*sys.argv[1:])
