"""Runs the containers of rendered manifests as processes on loopback, as Kubernetes would: with their own commands, flags,
probes, preStop and time to end. Only what a container's walls provide is replaced: addresses, ports and folders."""
import signal
import subprocess
import time
import urllib.error
import urllib.request

import grpc

import client
from client import health
from cluster import BIN_DIR, DEMO_MODEL
from prometheus import free_port


class Pod:
    """One pod of a workload. `addresses` are those of Services, by the name that flags have for them."""

    def __init__(self, workload, index, folder, addresses):
        self.name = f"{workload['metadata']['name']}-{index}"
        self.spec = workload["spec"]["template"]["spec"]
        self.container = self.spec["containers"][0]
        self.ports = {port["name"]: free_port() for port in self.container["ports"]}
        self.address = f"127.0.0.1:{self.ports['grpc']}"
        self.folder = folder / self.name
        self.folder.mkdir(exist_ok=True)  # a volume outlives its pod
        self.log = folder / f"{self.name}.log"
        self.process = None
        self.command = [BIN_DIR / self.container["command"][0],
                        *(self._placed(flag, addresses) for flag in self.container["args"])]

    def _placed(self, flag, addresses):
        name, _, value = flag.partition("=")
        for service, address in addresses.items():
            if name in ("--workers", "--retrieval", "--follow") and service in value:
                return f"{name}={address}"
        for port in self.container["ports"]:
            if value == f":{port['containerPort']}":
                return f"{name}=127.0.0.1:{self.ports[port['name']]}"
        value = value.replace("/var/lib/clamor", str(self.folder)).replace("/usr/share/clamor/demo-model", str(DEMO_MODEL))
        return f"{name}={value}"

    def start(self):
        """Until it is ready."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.command], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        for probe in ("startupProbe", "readinessProbe"):
            self._wait(self.container[probe])
        return self

    def _wait(self, probe):
        # Of a machine that is busy, readiness gets as many tries as starting has.
        for _ in range(self.container["startupProbe"]["failureThreshold"]):
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} exited with {self.process.returncode}\n{self.log.read_text()}")
            if self.passes(probe):
                return
            time.sleep(probe["periodSeconds"])
        raise AssertionError(f"{self.name} does not pass {probe}\n{self.log.read_text()}")

    def passes(self, probe):
        seconds = probe.get("timeoutSeconds", 1)
        try:
            if "grpc" in probe:
                with client.connect(self) as channel:
                    reply = health.HealthCheckRequest(service=probe["grpc"].get("service", ""))
                    state = client.health_grpc.HealthStub(channel).Check(reply, timeout=seconds).status
                    return state == health.HealthCheckResponse.SERVING
            port = self.ports[probe["httpGet"]["port"]]
            url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
            return urllib.request.urlopen(url, timeout=seconds).status == 200
        except (grpc.RpcError, urllib.error.URLError, OSError):
            return False

    def lives(self):
        return self.passes(self.container["livenessProbe"])

    def delete(self):
        """preStop, SIGTERM, and the time that the pod has; its exit status, -9 if it did not suffice."""
        settle = self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(settle)
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(self.spec["terminationGracePeriodSeconds"] - settle)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
