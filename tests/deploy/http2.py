"""As much of HTTP/2 as it takes to hear a server say goodbye."""
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY, ACK = 4, 6, 7, 1


class IdleConnection:
    """Open and otherwise silent. `told_to_go` is set by the first GOAWAY, `closed` by the end."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.told_to_go, self.closed, self.open = threading.Event(), threading.Event(), threading.Event()
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.sendall(PREFACE + self._frame(SETTINGS))
        threading.Thread(target=self._read, daemon=True).start()

    @staticmethod
    def _frame(kind, flags=0, payload=b""):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, 0) + payload

    def _receive(self, size):
        data = b""
        while len(data) < size:
            if not (more := self._socket.recv(size - len(data))):
                raise ConnectionError
            data += more
        return data

    def _read(self):
        try:
            while True:
                head = self._receive(9)
                kind, flags = head[3], head[4]
                payload = self._receive(int.from_bytes(head[:3], "big"))
                if kind == SETTINGS and not flags & ACK:
                    self._socket.sendall(self._frame(SETTINGS, ACK))
                    self.open.set()
                elif kind == PING and not flags & ACK:
                    self._socket.sendall(self._frame(PING, ACK, payload))
                elif kind == GOAWAY:
                    self.told_to_go.set()
        except OSError:
            self.closed.set()
