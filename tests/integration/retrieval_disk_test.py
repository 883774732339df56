"""A disk that is full refuses what is new, in so many words, and nothing else; with room on it, it takes in again, without a
restart. A backup that is restored on an empty node answers as the store did."""
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

import grpc

import client
from cluster import BIN_DIR, Server, main
from stored import STORED, UNCHANGED, Store, document

MIB = 1 << 20


def in_own_mounts():
    """Starts this test again where it may mount a disk of its own, if the system lets us."""
    if os.environ.get("CLAMOR_OWN_MOUNTS"):
        return True
    unshare = ["unshare", "--mount", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode:
        return False
    os.environ["CLAMOR_OWN_MOUNTS"] = "1"
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


class RetrievalTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="clamor-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def start(self, store, *flags, label=""):
        server = Server("clamor-retrieval", self.folder, "--store", store, *flags, label=label)
        self.addCleanup(lambda: server.alive() and server.kill())
        return server.start().wait_ready()

    def check(self, store):
        done = subprocess.run([BIN_DIR / "clamor-retrieval", "--store", store, "--check"], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


class FullDiskTest(RetrievalTest):
    """On a disk of 160 MiB, of which a file that is in the way takes 40."""

    def setUp(self):
        super().setUp()
        if not os.environ.get("CLAMOR_OWN_MOUNTS"):
            self.skipTest("this system lets us mount nothing")
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "none", self.disk], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.disk], check=True)
        self.ballast = self.disk / "ballast"
        self.ballast.write_bytes(bytes(40 * MIB))

    def fill(self, store):
        """Appends until it is refused, twice; what was acknowledged, and the refused."""
        acknowledged = []
        while True:
            batch = [document("ann", len(acknowledged) + i, length=20000) for i in range(8)]
            try:
                self.assertEqual(store.append(batch), [STORED] * len(batch))
            except grpc.RpcError as error:
                self.check_refusal(error)
                break
            acknowledged += batch
        with self.assertRaises(grpc.RpcError) as again:
            store.append(batch)
        self.check_refusal(again.exception)
        return acknowledged, batch

    def check_refusal(self, error):
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, error.details())
        self.assertEqual(client.read_refusal(error).reason, "STORE_FULL")

    def run_full(self, *flags):
        server = self.start(self.disk / "store", *flags)
        store = Store(server)
        acknowledged, refused = self.fill(store)
        self.assertGreater(len(acknowledged), 8)
        self.assertEqual(store.stats().documents, len(acknowledged))
        self.assertTrue(all(store.follows(each) for each in acknowledged))
        self.assertFalse(any(store.follows(each) for each in refused))
        self.assertTrue(server.ready())
        self.ballast.unlink()
        self.assertEqual(store.append(refused), [STORED] * len(refused))
        self.assertTrue(all(store.follows(each) for each in acknowledged + refused))
        server.kill()
        server.start().wait_ready()
        for first in range(0, len(acknowledged), 8):
            self.assertEqual(set(Store(server).append(acknowledged[first:first + 8])), {UNCHANGED})
        self.assertEqual(Store(server).append(refused), [UNCHANGED] * len(refused))
        server.kill()
        self.check(self.disk / "store")
        print(f"{len(acknowledged)} documents until the disk was full with {' '.join(flags)}")

    def test_what_must_stay_free(self):
        self.run_full("--min-free-bytes", str(20 * MIB))

    def test_to_the_last_byte(self):
        self.run_full("--min-free-bytes", "0")


class RestoreTest(RetrievalTest):

    def test_a_backup_on_an_empty_node(self):
        first = self.start(self.folder / "store")
        store = Store(first)
        documents = [document("ann", number) for number in range(600)] + [document("bob", number) for number in range(50)]
        for at in range(0, len(documents), 50):
            store.append(documents[at:at + 50])
        for each in documents[:60]:
            self.assertTrue(store.delete(each))
        chosen = random.Random(1)
        contexts = [chosen.choice(documents).tokens[at:at + 1 + chosen.randrange(40)]
                    for at in [chosen.randrange(350) for _ in range(200)]]
        lookups = {tenant: store.lookup(contexts, tenant) for tenant in ("ann", "bob", "nobody")}
        self.assertTrue(any(trie.tokens for trie in lookups["ann"]) and any(trie.tokens for trie in lookups["bob"]))
        # As OPERATIONS.md says: an archive of the checkpoint, unpacked over an empty folder elsewhere.
        path = pathlib.Path(store.checkpoint("backup"))
        subprocess.run(["tar", "-C", path.parent, "-cf", self.folder / "backup.tar", path.name], check=True)
        store.append([document("ann", 5000)])  # behind the backup
        first.kill()
        restored = self.folder / "restored"
        restored.mkdir()
        subprocess.run(["tar", "-xf", self.folder / "backup.tar", "--strip-components=1", "-C", restored], check=True)
        second = self.start(restored, label="-restored")
        again = Store(second)
        for tenant, tries in lookups.items():
            self.assertEqual(again.lookup(contexts, tenant), tries)
        self.assertFalse(again.follows(document("ann", 5000)))
        self.assertEqual(again.stats().documents, len(documents) - 60)
        second.kill()
        self.check(restored)


if __name__ == "__main__":
    in_own_mounts()
    main()
