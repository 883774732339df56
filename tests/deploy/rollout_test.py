"""A rolling restart, under load, of everything that the chart starts: by the manifests' own commands, flags, probes, preStop
and grace. No stream fails, and every answer is the one that an undisturbed cluster gives."""
import pathlib
import shutil
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import tools
if not tools.complete():
    tools.skip("there is no helm")
try:
    import grpc
    import yaml
except ImportError as missing:
    tools.skip(f"{missing}; install python3-grpcio and python3-yaml")

import chart
import client
from client import Client, QUESTIONS
from cluster import SECONDS, wait_until
from kubelet import Pod

# Two workers that remember: as those of a StatefulSet do, they come back where they were.
SETTINGS = ("workerDefaults.replicas=2", "workerDefaults.state.enabled=true", "workerDefaults.threads=1",
            "workerDefaults.grace=30", "gateway.grace=60")
LONG = dict(max_tokens=200, ignore_eos=True)


class Load(threading.Thread):
    """A client that asks the same again and again. What comes to nothing before the answer has begun is asked again, as
    clients do: a refusal, and the cut of a call that meets a server in the moment in which it closes. Whatever else goes
    wrong is a failure. gRPC's own retries are off: those of 1.51 can lose such a call for ever, deadline and all."""

    def __init__(self, gateway, question):
        super().__init__(daemon=True)
        self.client = Client(gateway, options=[("grpc.enable_retries", 0)])
        self.question = question
        self.expected = self.client.ask(question, **LONG, nodes=0).ids
        self.answers, self.refused, self.failures = 0, 0, []
        self.last_refusal = ""
        self.stopping = threading.Event()
        self.start()

    def run(self):
        while not self.stopping.wait(0.02):
            tokens = []
            try:
                answer = client.collect(self.client.start(self.question, **LONG), on_tokens=tokens.append)
                self.answers += 1
                if answer.ids != self.expected:
                    self.failures.append(f"other ids: {answer.ids} instead of {self.expected}")
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) and not tokens:
                    self.refused += 1
                    self.last_refusal = f"{error.code()}: {error.details()}"
                else:
                    self.failures.append(f"after {len(tokens)} messages: {error.code()}: {error.details()}")
            except AssertionError as error:
                self.failures.append(f"no whole stream: {error}")

    def stop(self):
        self.stopping.set()
        self.join()


class RolloutTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-rollout-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.pods = []
        store = cls.add("-retrieval", 0, {})
        asked = {"-retrieval.": store.address}
        workers = [cls.add("-worker-demo", i, asked) for i in range(2)]
        cls.add("-gateway", 0, {"-worker-demo.": ",".join(worker.address for worker in workers)})

    @classmethod
    def workload(cls, suffix):
        return chart.named("default", "StatefulSet", suffix, settings=SETTINGS)

    @classmethod
    def add(cls, suffix, index, addresses):
        pod = Pod(cls.workload(suffix), index, cls.folder, addresses, without=chart.AHEAD)
        cls.addClassCleanup(pod.kill)
        cls.pods.append(pod.start())
        return pod

    def setUp(self):
        gateway = self.pods[-1]
        self.loads = [Load(gateway, [("user", question)]) for question in QUESTIONS[:3]]
        for load in self.loads:
            self.addCleanup(load.stop)

    def restart(self, pod):
        """In its place, under load, which goes on for an answer each before and after."""
        self.wait_for_answers()
        self.assertTrue(pod.lives(), pod.name)
        self.assertEqual(pod.delete(), 0, f"{pod.name}: {pod.log.read_text()}")
        pod.start()
        self.wait_for_answers()
        for load in self.loads:
            self.assertEqual(load.failures, [])

    def wait_for_answers(self):
        before = [load.answers for load in self.loads]
        def answered():
            return all(load.answers > count or load.failures for load, count in zip(self.loads, before))
        try:
            wait_until(answered, "every client got an answer", seconds=2 * SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {[(load.answers, load.refused, load.last_refusal) for load in self.loads]}\n" +
                                 "\n".join(f"--- {pod.log.name}\n{pod.log.read_text()[-1500:]}" for pod in self.pods)) from None

    def test_workers_and_store(self):
        *rest, gateway = self.pods
        for pod in rest:
            self.restart(pod)
            self.assertTrue(gateway.lives())
        # Nothing that was refused: there was a worker at any time.
        self.assertEqual([load.refused for load in self.loads], [0, 0, 0])
        print(f"{sum(load.answers for load in self.loads)} answers, none disturbed")

    def test_gateway(self):
        self.restart(self.pods[-1])
        print(f"{sum(load.answers for load in self.loads)} answers, {sum(load.refused for load in self.loads)} asked again")


if __name__ == "__main__":
    unittest.main(verbosity=2)
