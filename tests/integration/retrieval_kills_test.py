"""The store under appends, replacements, deletions and lookups at once, killed with -9 again and again, also while it starts:
nothing acknowledged is lost, nothing deleted comes back, and in the end it is sound. CLAMOR_KILL_SECONDS=600 for a long run."""
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

import grpc

from cluster import BIN_DIR, SECONDS, Server, main
from stored import UNCHANGED, Store, document

RUN_SECONDS = float(os.environ.get("CLAMOR_KILL_SECONDS", "15"))
TENANTS = ("ann", "bob")


class Writer(threading.Thread):
    """Changes one tenant's documents one step after the other. `versions` is what was acknowledged, `step` what is under
    way: it is made again until it is acknowledged. Each new version of a document has other tokens."""

    def __init__(self, run, tenant):
        super().__init__(daemon=True)
        self.run_, self.tenant, self.random = run, tenant, random.Random(tenant)
        self.lock = threading.Lock()  # for the next four
        self.versions = {}  # of live documents, by number
        self.gone = []  # (number, version) that were deleted or replaced
        self.step = {}  # number: its version after the step, None to delete it
        self.recent = set()  # numbers changed since the last check
        self.acknowledged = 0
        self.failure = None

    def document(self, number, version):
        return document(self.tenant, number, version)

    def run(self):
        try:
            store = Store(self.run_.server)
            while not self.run_.stopped.is_set():
                with self.lock:
                    self.step = self.next_step()
                while not self.make(store):
                    self.run_.up.wait(SECONDS)
                with self.lock:
                    self.apply()
        except Exception as failure:  # to be shown by the test's own thread
            self.failure = failure

    def next_step(self):
        kind, live = self.random.random(), list(self.versions) if self.random.random() < 0.3 else None
        if not live or kind < 0.2:
            first = len(self.versions) + len(self.gone)
            return {first + i: 0 for i in range(self.random.randint(1, 32))}
        if kind < 0.6:
            return {number: self.versions[number] + 1 for number in self.random.sample(live, min(len(live), 8))}
        return {self.random.choice(live): None}

    def make(self, store):
        """False if the server is gone."""
        try:
            added = [self.document(number, version) for number, version in self.step.items() if version is not None]
            if added:
                store.append(added)
            for number, version in self.step.items():
                if version is None:
                    store.delete(self.document(number, 0))
            return True
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED):
                raise
            return False

    def apply(self):
        for number, version in self.step.items():
            if number in self.versions:
                self.gone.append((number, self.versions.pop(number)))
            if version is not None:
                self.versions[number] = version
        self.recent |= self.step.keys()
        self.acknowledged += len(self.step)
        self.step = {}


class Reader(threading.Thread):
    """Asks for what was acknowledged, while it changes and while the server comes and goes."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_, self.random = run, random.Random(5)
        self.seconds, self.failure = [], None

    def run(self):
        store = Store(self.run_.server)
        while not self.run_.stopped.is_set():
            writer = self.random.choice(self.run_.writers)
            with writer.lock:
                number = self.random.choice(list(writer.versions)) if writer.versions else None
                version = writer.versions.get(number)
            if number is None:
                continue
            start = time.monotonic()
            try:
                known = store.follows(writer.document(number, version))
            except grpc.RpcError:
                self.run_.up.wait(SECONDS)
                continue
            self.seconds.append(time.monotonic() - start)
            with writer.lock:
                settled = writer.versions.get(number) == version and number not in writer.step
            if settled and not known:
                self.failure = AssertionError(f"document {number} of {writer.tenant} was acknowledged and is not found")
                return


class RetrievalKillsTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = Server("clamor-retrieval", self.folder, "--store", self.folder / "store")
        self.addCleanup(lambda: self.server.alive() and self.server.kill())
        self.server.start().wait_ready()
        self.up, self.stopped = threading.Event(), threading.Event()
        self.up.set()
        self.random = random.Random(7)
        self.writers = [Writer(self, tenant) for tenant in TENANTS]
        self.reader = Reader(self)
        self.threads = [*self.writers, self.reader]
        self.checked = 0

    def check(self, writer):
        """What one writer was told holds, up to the step under way. The writer stands still."""
        store, chosen = Store(self.server), self.random
        with writer.lock:
            live = {number: version for number, version in writer.versions.items() if number not in writer.step}
            counts = {len(writer.versions), len({**writer.versions, **{n: v for n, v in writer.step.items() if v is not None}})
                      - sum(1 for n, v in writer.step.items() if v is None and n in writer.versions)}
            recent, writer.recent = writer.recent & live.keys(), set()
            gone = writer.gone[-50:] + chosen.sample(writer.gone, min(len(writer.gone), 50))
        self.assertIn(store.stats(writer.tenant).documents, counts)
        numbers = list(recent | set(chosen.sample(sorted(live), min(len(live), 200))))
        for first in range(0, len(numbers), 200):
            documents = [writer.document(number, live[number]) for number in numbers[first:first + 200]]
            self.assertEqual(set(store.append(documents)), {UNCHANGED})
            tries = store.lookup([each.tokens[:20] for each in documents], writer.tenant)
            self.assertTrue(all(trie.match_length == 20 and trie.tokens[0] == each.tokens[20]
                                for trie, each in zip(tries, documents)))
        tries = store.lookup([writer.document(*each).tokens[:20] for each in gone], writer.tenant) if gone else []
        self.assertLess(max((trie.match_length for trie in tries), default=0), 8, "a deleted document is back")
        self.checked += len(numbers) + len(gone)

    def test_kills(self):
        for thread in self.threads:
            thread.start()
        kills, starts = 0, []
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline and not any(thread.failure for thread in self.threads):
            time.sleep(self.random.uniform(0.2, min(6, RUN_SECONDS / 6)))
            self.up.clear()
            self.server.kill()
            kills += 1
            while self.random.random() < 0.3:  # and once more, before it is ready
                self.server.start()
                time.sleep(self.random.uniform(0, 0.3))
                self.server.kill()
                kills += 1
            start = time.monotonic()
            self.server.start().wait_ready()
            starts.append(time.monotonic() - start)
            for writer in self.writers:
                self.check(writer)
            self.up.set()
        self.stopped.set()
        for thread in self.threads:
            thread.join(SECONDS)
            self.assertFalse(thread.is_alive())
            if thread.failure:
                raise thread.failure
        for writer in self.writers:
            self.check(writer)
            self.assertGreater(writer.acknowledged, 0)
            self.assertGreater(len(writer.gone), 0)
        tokens = Store(self.server).stats().tokens
        self.server.terminate()
        self.assertEqual(self.server.wait_exit(), 0)
        done = subprocess.run([BIN_DIR / "clamor-retrieval", "--store", self.folder / "store", "--check"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        seconds = sorted(self.reader.seconds)
        print(f"{kills} kills; {sum(writer.acknowledged for writer in self.writers)} changes acknowledged, {tokens} tokens in "
              f"the end, {self.checked} checks of documents, {len(seconds)} lookups meanwhile, p50 "
              f"{seconds[len(seconds) // 2] * 1e3:.1f} ms; starts at most {max(starts):.2f} s; {done.stdout.strip()}")


if __name__ == "__main__":
    main()
