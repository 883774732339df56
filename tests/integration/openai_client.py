"""OpenAI's API by nothing but http.client."""
import http.client
import json

from cluster import SECONDS

CHAT = "/v1/chat/completions"


def data_of(text):
    """The data of each event; comments are for nobody."""
    assert text.endswith("\n\n"), text[-50:]
    for event in text[:-2].split("\n\n"):
        yield from (line.removeprefix("data: ") for line in event.split("\n") if not line.startswith(":"))


class Api:
    """A client that sends one request a connection."""

    def __init__(self, server):
        self.address = server.api

    def send(self, method, path, body=None, headers=None):
        """The response, not read yet."""
        connection = http.client.HTTPConnection(self.address, timeout=SECONDS)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", "Connection": "close", **(headers or {})})
        return connection.getresponse()

    def ask(self, path=CHAT, headers=None, **fields):
        """The answer's JSON."""
        response = self.send("POST", path, fields, headers)
        body = json.loads(response.read())
        assert response.status == 200, (response.status, body)
        return body

    def stream(self, path=CHAT, **fields):
        """The chunks, without [DONE], which must be there."""
        response = self.send("POST", path, {"stream": True, **fields})
        events = response.read().decode().split("\n\n")
        assert response.status == 200 and events.pop() == "" and events.pop() == "data: [DONE]", (response.status, events)
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def error(self, method, path, body=None, headers=None):
        """Status, error object and headers."""
        response = self.send(method, path, body, headers)
        return response.status, json.loads(response.read())["error"], response.headers
