"""Real processes on loopback: a retrieval service, a worker and a gateway in a temporary folder.

A test file derives from ClusterTest, which starts one cluster per class and stops it, whatever happens: at the end of the
class, on Ctrl-C and SIGTERM (at exit), and by the kernel if the test is killed. When a test fails, the ends of the logs are
shown. A server that was not killed on purpose must live until it is stopped and then exit with 0.

Nothing here sleeps for synchronisation: `wait_until` asks again and again until a deadline.
"""
import atexit
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN_DIR = pathlib.Path(os.environ.get("CLAMOR_BIN_DIR", ROOT / "build/release/bin"))
DEMO_MODEL = ROOT / "deploy/demo-model"
SECONDS = 60 * int(os.environ.get("CLAMOR_SLOWNESS", "1"))  # for what should succeed


def wait_until(condition, what, seconds=SECONDS):
    """The first true value of `condition()`; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
    return value


def free_port():
    """A port that is still free when a server that was killed comes back: below those that the kernel gives to connections,
    among them one to this very port while nobody listens there."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise AssertionError("of 100 ports none is free")


class Server:
    """One process of `name`. The first start takes free ports; later ones the same gRPC port again. `label` tells several
    of a name apart; `environment` is added to this process's own; `within` is a command that ends in running it."""

    def __init__(self, name, folder, *flags, label="", environment=None, within=()):
        self.name = name
        self.flags = [str(flag) for flag in flags]
        self.environment = environment or {}
        self.within = within
        self.log = folder / f"{name}{label}.log"
        self.address = f"127.0.0.1:{free_port()}"  # of gRPC
        self.http = self.api = None
        self.process = None
        self._port_file = folder / f"{name}{label}.ports"

    def start(self):
        """Starts the process and waits until both ports are bound."""
        self._port_file.unlink(missing_ok=True)
        command = [BIN_DIR / self.name, "--listen", self.address, "--http", "127.0.0.1:0",
                   "--port-file", self._port_file, *self.flags]
        if self.name == "clamor-gateway":
            command += ["--api", "127.0.0.1:0"]
        with open(self.log, "ab") as log:
            # The kernel kills it when this process goes; preexec_fn would not do beside gRPC's threads.
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.within, *command], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT,
                                            env={"CLAMOR_GRACE": str(SECONDS // 2), **os.environ, **self.environment})
        self._wait_until(self._port_file.exists, "has bound its ports")
        ports = dict(line.split("=", 1) for line in self._port_file.read_text().splitlines())
        self.address, self.http, self.api = ports["grpc"], ports["http"], ports.get("api")
        return self

    def wait_ready(self):
        self._wait_until(self.ready, "is ready")
        return self

    def _wait_until(self, condition, what):
        wait_until(lambda: condition() or not self.alive(), f"{self.name} {what}\n{self.log_tail()}")
        if not self.alive():
            raise AssertionError(f"{self.name} exited with {self.process.returncode} before it {what}\n{self.log_tail()}")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def get(self, path):
        """Status and body of an HTTP request; (None, "") if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return None, ""

    def ready(self):
        return self.get("/readyz")[0] == 200

    def metric(self, name, **labels):
        """The sum of the series of that name that have these labels; AssertionError if there is none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        _, text = self.get("/metrics")
        series = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        values = [float(value) for found, value in series if all(label in found for label in wanted)]
        if not values:
            raise AssertionError(f"{self.name} has no metric {name} {labels}")
        return sum(values)

    def kill(self):
        """kill -9, and gone when it returns."""
        self.process.kill()
        self.process.wait()

    def pause(self):
        """SIGSTOP: it stands still, its connections stay."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, seconds=SECONDS):
        """The exit status."""
        return self.process.wait(timeout=seconds)

    def log_tail(self, lines=25):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"--- the end of {self.log.name}", *text.splitlines()[-lines:]])


class Cluster:
    """All three, ready to answer; of workers, one for each environment. The flag STATE stands for a folder of workers, or of
    the gateway. With `follower` the store has one, which workers ask, too."""

    def __init__(self, worker_flags=(), gateway_flags=(), worker_environments=({},), follower=False):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-test-"))
        self.servers = []
        atexit.register(self._kill)
        self.retrieval = self.add("clamor-retrieval", "--store", self.folder / "store")
        stores = self.retrieval.address
        if follower:
            self.follower = self.add("clamor-retrieval", "--store", self.folder / "copy", "--follow", self.retrieval.address,
                                     label="-follower")
            stores += "|" + self.follower.address
        folder = lambda name, flags: [self.folder / name if flag == "STATE" else flag for flag in flags]
        self.workers = [self.add("clamor-worker", "--model", DEMO_MODEL, "--retrieval", stores,
                                 *folder("state", worker_flags), label=f"-{i}" if i else "", environment=environment)
                        for i, environment in enumerate(worker_environments)]
        self.worker = self.workers[0]
        self.gateway = self.add("clamor-gateway", "--workers", ",".join(worker.address for worker in self.workers),
                                *folder("sessions", gateway_flags))
        for server in self.servers:
            server.wait_ready()

    def new(self, name, *flags, **fields):
        """A server that the cluster stops with its others; not started."""
        self.servers.append(Server(name, self.folder, *flags, **fields))
        return self.servers[-1]

    def add(self, name, *flags, **fields):
        return self.new(name, *flags, **fields).start()

    def log_tails(self):
        return "\n".join(server.log_tail() for server in self.servers)

    def stop(self):
        """SIGTERM to what should still run, clients first; AssertionError if something does not, or does not exit with 0."""
        try:
            for server in reversed(self.servers):
                if server.process.returncode == -signal.SIGKILL:
                    continue
                if server.alive():
                    server.terminate()
                status = server.wait_exit()
                if status != 0:
                    raise AssertionError(f"{server.name} exited with {status}\n{server.log_tail()}")
        finally:
            self._kill()

    def _kill(self):
        for server in self.servers:
            if server.alive():
                server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class ClusterTest(unittest.TestCase):
    """Tests that share a cluster."""

    # One thread: workers, servers and clients share the machine, and a pool that spins pays for that dearly.
    worker_flags = ("--threads", "1")
    gateway_flags = ()
    worker_environments = ({},)
    follower = False

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cls.worker_flags, cls.gateway_flags, cls.worker_environments, cls.follower)
        cls.addClassCleanup(cls.cluster.stop)

    def run(self, result=None):
        failed = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > failed:
            print(f"\n{self.id()} failed\n{self.cluster.log_tails()}", file=sys.stderr)
        return result


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    unittest.main(verbosity=2)
