"""A real redis-server in a folder of its own, on a free port of loopback."""
import shutil
import socket
import subprocess

from cluster import wait_until

MISSING = "NOT TESTED: there is no redis-server; install Debian's"


def installed():
    return shutil.which("redis-server") is not None


class Redis:
    """A redis-server that syncs before it acknowledges, unless told otherwise."""

    def __init__(self, folder, appendfsync="always"):
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = ["setpriv", "--pdeathsig", "KILL", "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
                        "--dir", folder, "--save", "", "--appendonly", "yes", "--appendfsync", appendfsync]
        self.log = folder / "log"
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._answers, f"redis-server answers\n{self.log.read_text()}")

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"
