"""A rolling restart, under load, of everything that the chart starts: by the manifests' own commands, flags, probes, preStop
and grace. No stream fails, and every answer is the one that an undisturbed cluster gives."""
import concurrent.futures
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
from client import Client, QUESTIONS, Stream
from cluster import SECONDS, wait_until
from http2 import IdleConnection
from kubelet import Pod

# Two workers that remember: as those of a StatefulSet do, they come back where they were.
SETTINGS = ("workerDefaults.replicas=2", "workerDefaults.state.enabled=true", "workerDefaults.threads=1",
            "workerDefaults.grace=30", "gateway.grace=60")
HASTY = ("gateway.grace=1", "gateway.settle=1")  # later than those above: a gateway that its streams outlive
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
        store = cls.add("-retrieval", 0, {})
        asked = {"-retrieval.": store.address}
        workers = [cls.add("-worker-demo", i, asked) for i in range(2)]
        cls.workers = {"-worker-demo.": ",".join(worker.address for worker in workers)}
        cls.pods = [store, *workers, cls.add("-gateway", 0, cls.workers)]

    @classmethod
    def add(cls, suffix, index, addresses, settings=SETTINGS):
        workload = chart.named("default", "StatefulSet", suffix, settings=settings)
        pod = Pod(workload, index, cls.folder, addresses)
        cls.addClassCleanup(pod.kill)
        return pod.start()

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
        idle = IdleConnection(self.pods[-1].address)
        self.restart(self.pods[-1])
        self.assertTrue(idle.told_to_go.is_set())
        print(f"{sum(load.answers for load in self.loads)} answers, {sum(load.refused for load in self.loads)} asked again")

    def test_what_outlives_its_gateway_goes_on(self):
        asked = dict(max_tokens=800, ignore_eos=True)
        gateway = self.add("-gateway", 1, self.workers, settings=(*SETTINGS, *HASTY))
        asker = Client(gateway, options=[("grpc.enable_retries", 0)])
        streams = [Stream(asker.start([("user", question)], nodes=0, **asked)) for question in QUESTIONS[3:11]]
        wait_until(lambda: all(stream.tokens > 5 for stream in streams), "the streams have begun")
        idle = IdleConnection(gateway.address)
        self.assertTrue(idle.open.wait(SECONDS))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            gone = pool.submit(gateway.delete)
            self.assertTrue(idle.told_to_go.wait(SECONDS), "GOAWAY")
            self.assertTrue(any(stream.running() for stream in streams), "it came before the streams were cut")
            self.assertEqual(gone.result(), 0)
        gateway.start()
        successor, undisturbed = Client(gateway), Client(self.pods[-1])
        cut = 0
        for question, stream in zip(QUESTIONS[3:11], streams):
            expected = undisturbed.ask([("user", question)], **asked).ids
            try:
                self.assertEqual(stream.answer().ids, expected)
            except grpc.RpcError:
                cut += 1
                self.assertEqual(successor.resume(stream.started.request_id, stream.tokens)[0], expected[stream.tokens:])
                self.assertEqual(successor.resume(stream.started.request_id)[0], expected)
        self.assertGreater(cut, 0, "all ended within its grace: the test says nothing")
        print(f"{cut} of {len(streams)} streams cut, all went on with the same ids")


if __name__ == "__main__":
    unittest.main(verbosity=2)
