"""clamor serve: everything in one process, from the first line that it prints to Ctrl-C."""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest

from cluster import BIN_DIR, DEMO_MODEL, SECONDS, main, wait_until


class ServeTest(unittest.TestCase):

    def start(self, model=DEMO_MODEL, api="127.0.0.1:0"):
        folder = tempfile.TemporaryDirectory(prefix="clamor-serve-test-")
        self.addCleanup(folder.cleanup)
        self.temporary = pathlib.Path(folder.name)
        command = ["setpriv", "--pdeathsig", "KILL", BIN_DIR / "clamor", "serve", "--model", model, "--threads", "1",
                   "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api", api]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, "TMPDIR": folder.name})
        self.addCleanup(process.kill)
        return process

    def read_addresses(self, process):
        text = ""
        while "Ctrl-C" not in text:
            line = process.stdout.readline()
            if not line:
                self.fail(f"it ended: {process.stderr.read()}")
            text += line
        return text

    def ask(self, address, method, path, body=None):
        connection = http.client.HTTPConnection(address, timeout=SECONDS)
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def test_answers_until_ctrl_c(self):
        process = self.start()
        printed = self.read_addresses(process)
        api = re.search(r"http://(127\.0\.0\.1:\d+)/v1/chat/completions", printed)[1]
        body = re.search(r"-d '(.*)'", printed)[1]  # as a user would copy it
        wait_until(lambda: '"id"' in self.ask(api, "GET", "/v1/models")[1], "the gateway has found its worker")
        status, answer = self.ask(api, "POST", "/v1/chat/completions", body)
        self.assertEqual(status, 200, answer)
        self.assertTrue(json.loads(answer)["choices"][0]["message"]["content"])
        self.assertEqual(self.ask(api, "GET", "/")[0], 200)
        metrics = re.findall(r"http://(127\.0\.0\.1:\d+)/metrics", printed)
        self.assertEqual(len(metrics), 3)
        for address, name in zip(metrics, ("clamor_gateway_requests_total", "clamor_generated_tokens_total", "clamor_retrieval_segments")):
            self.assertIn(name, self.ask(address, "GET", "/metrics")[1])
        grpc = re.search(r"gRPC +(\S+)", printed)[1]
        told = subprocess.run([BIN_DIR / "clamor", "status", "--server", grpc], capture_output=True, text=True, timeout=SECONDS)
        self.assertIn("demo-model", told.stdout)

        self.assertEqual(len(list(self.temporary.iterdir())), 1, "the store")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(SECONDS), 0)
        self.assertEqual(list(self.temporary.iterdir()), [], "nothing is left")

    def test_says_what_is_wrong(self):
        process = self.start(model="/nowhere")
        self.assertEqual(process.wait(SECONDS), 1)
        error = process.stderr.read()
        self.assertIn("/nowhere", error)
        process = self.start(api="somewhere:1")
        self.assertEqual(process.wait(SECONDS), 1)
        self.assertIn("--api", process.stderr.read())


if __name__ == "__main__":
    main()
