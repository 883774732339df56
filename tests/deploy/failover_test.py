"""Failing over as deploy/OPERATIONS.md has it, with the manifests' own containers as processes (kubelet.py): the store's volume is
lost, its follower takes its place, and the first, with a new volume, comes to follow that."""
import pathlib
import shutil
import sys
import tempfile
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
from client import Client, QUESTIONS
from cluster import wait_until
from kubelet import Pod
from stored import STORED, Store, document

FOLLOWS = ("retrieval.follower.enabled=true", "workerDefaults.state.enabled=true", "workerDefaults.threads=1")
LEADS = (*FOLLOWS, "retrieval.follower.leads=true")
LONG = dict(max_tokens=200, ignore_eos=True)


class FailoverTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-failover-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def start(self, suffix, addresses, settings):
        pod = Pod(chart.named("default", "StatefulSet", suffix, settings=settings), 0, self.folder, addresses)
        self.addCleanup(pod.kill)
        return pod.start()

    def start_all(self, settings, leader, follower):
        """Both stores by the names of their parts, a worker and a gateway."""
        first = self.start(f"-{leader}", {}, settings)
        second = self.start(f"-{follower}", {f"-{leader}.": first.address}, settings)
        worker = self.start("-worker-demo", {f"-{leader}.": f"{first.address}|{second.address}"}, settings)
        return first, second, worker, self.start("-gateway", {"-worker-demo.": worker.address}, settings)

    def drafts(self, gateway, expected):
        """Whether the store helps, with an answer that is as it must be."""
        answer = Client(gateway).ask([("user", QUESTIONS[0])], nodes=16, **LONG)
        self.assertEqual(answer.ids, expected)
        return answer.finished.speculation.accepted.store > 0

    def test_a_lost_volume(self):
        store, follower, worker, gateway = self.start_all(FOLLOWS, "retrieval", "retrieval-follower")
        expected = Client(gateway).ask([("user", QUESTIONS[0])], nodes=0, **LONG).ids
        many = [document("ann", number) for number in range(100)]
        self.assertEqual(Store(store).append(many), [STORED] * len(many))
        def whole(pod):
            return Store(pod).stats("ann").documents == len(many) and Store(pod).stats().documents > len(many)
        wait_until(lambda: whole(follower), "the follower has the answer and the other documents")

        store.kill()
        shutil.rmtree(store.folder)
        wait_until(lambda: self.drafts(gateway, expected), "the follower helps in its place")
        for pod in (gateway, worker, follower):
            self.assertEqual(pod.delete(), 0, pod.log.read_text())
        store, follower, worker, gateway = self.start_all(LEADS, "retrieval-follower", "retrieval")
        self.assertTrue(whole(store), "nothing is lost")
        wait_until(lambda: whole(follower), "the first has everything again, in a new volume")
        wait_until(lambda: self.drafts(gateway, expected), "the store helps")
        new = document("bob", 1)
        self.assertEqual(Store(store).append([new]), [STORED])
        wait_until(lambda: Store(follower).follows(new), "the first follows")


if __name__ == "__main__":
    unittest.main(verbosity=2)
