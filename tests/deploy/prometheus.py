"""A real Prometheus beside a cluster of tests/integration/cluster.py: it scrapes the servers every second and evaluates
the rules of deploy/prometheus every second."""
import contextlib
import json
import pathlib
import random
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import yaml

from cluster import ROOT, wait_until

BINARY = shutil.which("prometheus")
RULES = [ROOT / "deploy/prometheus/recording.yaml", ROOT / "deploy/prometheus/alerts.yaml"]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def hurry(text, times=20):
    """Rules whose windows and waits pass `times` as fast; their names stay."""
    def shorter(found):
        before, number, unit, after = found.groups()
        return f"{before}{max(1, int(number) * UNITS[unit] // times)}s{after}"
    return re.sub(r"(for: )(\d+)([smhd])($)", shorter, re.sub(r"(\[)(\d+)([smhd])(\])", shorter, text), flags=re.MULTILINE)


def free_port():
    """A port for a server that is told its port. Below those that the system gives to whoever asks for any, one of which
    would often be given away before the server listens."""
    while True:
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Prometheus:

    def __init__(self, folder, servers, namespace):
        folder = pathlib.Path(folder)
        for rules in RULES:
            (folder / rules.name).write_text(hurry(rules.read_text()))
        jobs = [{"job_name": server.name + server.log.stem, "static_configs": [
            {"targets": [server.http], "labels": {"namespace": namespace}}]} for server in servers]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules.name for rules in RULES], "scrape_configs": jobs}))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "prometheus.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", BINARY, f"--config.file={folder}/prometheus.yaml",
                 f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={self.url.removeprefix('http://')}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self.ready, f"Prometheus is ready; its log is {self.log}")

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return urllib.request.urlopen(self.url + "/-/ready", timeout=5).status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path, **parameters):
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None

    def query(self, expression):
        """The samples of now."""
        data = self.get("query", query=expression)
        return [data["result"]] if data["resultType"] == "scalar" else data["result"]

    def firing(self):
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}
