"""The last stage of deploy/images/Dockerfile.cpu without Docker: in a bare Debian root, and then its programs as the image's
user, the root read-only. Takes minutes, root and Debian's packages; runs if CLAMOR_IMAGE_TEST=1.

    CLAMOR_IMAGE_TEST=1 /usr/bin/python3 tests/deploy/image_test.py
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import tools

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLAMOR_BIN_DIR", ROOT / "build/release/bin")).parent
QUESTION = "How many legs do 7 cats have?"
if os.environ.get("CLAMOR_IMAGE_TEST") != "1":
    tools.skip("CLAMOR_IMAGE_TEST is not 1")
if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
    tools.skip("it takes root and Debian's package mmdebstrap")

# Run in a mount namespace of its own, $1 is the image's root. What Kubernetes gives a pod: the root read-only, /tmp and the
# volume writable, user 65532.
CLUSTER = """
set -euo pipefail
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs -o uid=65532 tmpfs "$1/var/lib/clamor"
mount -t proc proc "$1/proc"
exec chroot --userspec=65532:65532 "$1" sh -euc '
cd /tmp
if touch /usr/x 2>/dev/null || touch /x 2>/dev/null; then echo "the root is writable"; exit 1; fi
start() {
  name=$1; shift
  "$@" --listen 127.0.0.1:0 --http 127.0.0.1:0 --port-file $name.ports 2>$name.log &
  eval "$name=$!"
  for i in $(seq 600); do [ -e $name.ports ] && return; sleep 0.1; done
  cat $name.log; exit 1
}
address() { sed -n s/^grpc=//p $1.ports; }
start retrieval clamor-retrieval --store /var/lib/clamor/store
start worker clamor-worker --model /usr/share/clamor/demo-model --threads 1 --state /var/lib/clamor/state --retrieval $(address retrieval)
start gateway clamor-gateway --workers $(address worker)
for i in $(seq 600); do clamor generate --server $(address gateway) --chat --prompt "QUESTION" --max-tokens 40 && break; sleep 0.2; done
kill $gateway $worker $retrieval
wait $gateway && wait $worker && wait $retrieval && echo "all exited with 0"
'
""".replace("QUESTION", QUESTION)


def run(*command, **fields):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **fields)
    if done.returncode != 0:
        raise AssertionError(f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class ImageTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir=os.environ.get("CLAMOR_IMAGE_DIR"))))
        cls.root = folder / "root"
        run("mmdebstrap", "--variant=minbase", "bookworm", cls.root)
        shutil.copytree(ROOT / "deploy/images", cls.root / "src/deploy/images")
        run(ROOT / "deploy/images/steps.sh", "collect", BUILD, cls.root / "out")
        shutil.copy("/etc/resolv.conf", cls.root / "etc/resolv.conf")
        run("chroot", cls.root, "/src/deploy/images/steps.sh", "assemble", "/out")
        for made_by_mounts in ("src", "out"):
            shutil.rmtree(cls.root / made_by_mounts)

    def test_contents(self):
        contents = json.loads((self.root / "usr/share/clamor/contents.spdx.json").read_text())
        packages = {package["name"]: package for package in contents["packages"]}
        self.assertEqual(len({package["SPDXID"] for package in packages.values()}), len(contents["packages"]))
        for package in packages.values():
            self.assertRegex(package["SPDXID"], "^SPDXRef-[A-Za-z0-9.-]+$")
        self.assertLessEqual({"libgrpc++1.51", "librocksdb7.8", "libssl3", "clamor"}, packages.keys())
        self.assertFalse({"gcc", "g++", "cmake", "curl", "sudo"} & packages.keys())
        print(f"{len(packages)} packages, {run('du', '-sm', self.root).split()[0]} MiB")

    def test_runs_with_a_read_only_root(self):
        printed = run("unshare", "--mount", "bash", "-c", CLUSTER, "image", self.root)
        self.assertIn("all exited with 0", printed)
        self.assertGreater(len(printed.splitlines()), 1, "there is no answer")


if __name__ == "__main__":
    unittest.main(verbosity=2)
