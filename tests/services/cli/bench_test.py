"""`clamor bench` against a gateway and a worker of the demo model: every request is accounted for, and what was asked is what
was sent."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
CLAMOR = os.environ["CLAMOR"]
DEMO = str(ROOT / "deploy/demo-model")
SMALL = ["--max-tokens", 6, "--prompt-words", 5, "--ignore-eos"]
OUTCOMES = ("ok", "refused", "failed", "aborted", "cut")


def run(*arguments, timeout=300):
    return subprocess.run([CLAMOR, "bench", *map(str, arguments)], capture_output=True, text=True, timeout=timeout)


class BenchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.processes = []
        cls.addClassCleanup(cls.stop)
        worker, _ = cls.start("CLAMOR_WORKER", "--model", DEMO, "--threads", "1", "--max-sequences", "8")
        cls.gateway, cls.http = cls.start("CLAMOR_GATEWAY", "--workers", worker, "--api", "127.0.0.1:0",
                                          "--sessions", os.path.join(cls.folder.name, "sessions"))
        for _ in range(600):
            if run("--server", cls.gateway, "--concurrency", 1, "--requests", 1, *SMALL).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("the servers do not answer")

    @classmethod
    def start(cls, variable, *flags):
        ports = os.path.join(cls.folder.name, variable)
        command = [os.environ[variable], "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--port-file", ports, *flags]
        cls.processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        for _ in range(600):
            if os.path.exists(ports):
                text = pathlib.Path(ports).read_text()
                return re.search("grpc=(.*)", text)[1], re.search("http=(.*)", text)[1]
            time.sleep(0.1)
        raise AssertionError(variable + " does not start")

    @classmethod
    def stop(cls):
        codes = []
        for process in reversed(cls.processes):
            process.send_signal(signal.SIGTERM)
            codes.append(process.wait(timeout=60))
        cls.folder.cleanup()
        assert codes == [0] * len(codes), codes

    def bench(self, *arguments):
        """The JSON, whose sums have been checked."""
        done = run("--server", self.gateway, "--output", "json", *SMALL, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertTrue(report["complete"])
        for phase in report["phases"]:
            self.assertEqual(phase["sent"], sum(phase[outcome] for outcome in OUTCOMES))
            self.assertEqual(phase["sent"], sum(phase["by_priority"][p]["sent"] for p in ("low", "normal", "high")))
            self.assertEqual(phase["sent"], sum(s["sent"] for s in phase["slices"]))
            self.assertEqual(phase["total"]["count"], phase["ok"])
            self.assertEqual(phase["refused"] + phase["failed"], sum(e["requests"] for e in phase["errors"].values()))
            self.assertAlmostEqual(phase["goodput"] * phase["seconds"], phase["good"], places=6)
        return report

    def fails(self, code, pattern, *arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertRegex(done.stderr, pattern)
        self.assertEqual(done.stdout, "")

    def test_open_loop_sends_as_chance_says_whatever_comes_back(self):
        counts = []
        for seed in (1, 1, 2):
            report = self.bench("--rate", "20,40", "--duration", 2, "--seed", seed)
            self.assertEqual([phase["rate"] for phase in report["phases"]], [20, 40])
            counts.append([phase["sent"] + phase["skipped"] for phase in report["phases"]])
            for phase in report["phases"]:
                self.assertEqual(phase["skipped"], 0)
        self.assertEqual(counts[0], counts[1])
        self.assertNotEqual(counts[0], counts[2])
        for few, many in counts:
            self.assertTrue(15 < few < 75 and few < many < 140, counts)

    def test_closed_loop_keeps_to_its_number(self):
        report = self.bench("--concurrency", 3, "--requests", 20)
        phase = report["phases"][0]
        self.assertEqual((phase["sent"], phase["ok"], phase["good"], phase["tokens"]), (20, 20, 20, 120))
        self.assertEqual(phase["first_token"]["count"], 20)
        self.assertEqual(report["peak"]["phase"], "3 at a time")

    def test_what_is_open_is_limited(self):
        phase = self.bench("--rate", 500, "--duration", 1, "--most-open", 1)["phases"][0]
        self.assertGreater(phase["skipped"], 0)
        self.assertGreater(phase["sent"], 0)

    def test_the_mix(self):
        phase = self.bench("--concurrency", 8, "--requests", 150, "--high", 0.3, "--low", 0.3, "--abort-rate", 0.4)["phases"][0]
        for priority in ("low", "normal", "high"):
            self.assertTrue(20 < phase["by_priority"][priority]["sent"] < 85, phase["by_priority"])
        # One that is aborted after its last token has ended well.
        self.assertTrue(20 < phase["aborted"] < 90, phase)
        self.assertEqual(phase["sent"], phase["ok"] + phase["aborted"])

    def test_objectives_decide_what_is_good(self):
        phase = self.bench("--concurrency", 2, "--requests", 6, "--answer-within", 0.000001)["phases"][0]
        self.assertEqual((phase["ok"], phase["good"]), (6, 0))

    def test_a_deadline_that_nothing_meets(self):
        phase = self.bench("--concurrency", 2, "--requests", 6, "--deadline", 0.0001)["phases"][0]
        self.assertEqual((phase["sent"], phase["ok"]), (6, 0))
        self.assertTrue(any("DEADLINE" in reason for reason in phase["errors"]), phase["errors"])

    def test_sessions_get_their_turns_and_go(self):
        report = self.bench("--concurrency", 4, "--requests", 24, "--sessions", 4, "--turns", 3)
        self.assertEqual(report["phases"][0]["ok"], 24)
        self.assertGreaterEqual(report["session_turns"], 12)
        self.assertIn("clamor_gateway_sessions 0\n", self.metrics())

    def metrics(self):
        return urllib.request.urlopen(f"http://{self.http}/metrics").read().decode()

    def test_prompts_of_a_file(self):
        data = os.path.join(self.folder.name, "prompts.jsonl")
        pathlib.Path(data).write_text('{"prompt": "2 + 2 ="}\n{"messages": [{"role": "user", "content": "hi"}, '
                                      '{"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"}]}\n')
        phase = self.bench("--data", data, "--concurrency", 1, "--requests", 6)["phases"][0]
        self.assertEqual(phase["ok"], 6)
        self.assertIn('method="StreamChat",outcome="ok",reason="NONE"', self.metrics())

    def test_table_and_page(self):
        few = ["--server", self.gateway, "--rate", "10,20", "--duration", 1, *SMALL]
        done = run(*few)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"best goodput [\d.]+ a second")
        self.assertRegex(done.stdout, r"rate 20/s +whole answer")
        page = os.path.join(self.folder.name, "page.html")
        done = run(*few, "--output", "html", "--file", page)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("wrote " + page, done.stderr)
        self.assertGreater(pathlib.Path(page).read_text().count("<svg"), 2)

    def test_ctrl_c_gives_the_report_so_far(self):
        command = [CLAMOR, "bench", "--server", self.gateway, "--rate", "20,30", "--duration", "600", "--output", "json",
                   *map(str, SMALL)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertIn("rate 20/s", process.stderr.readline())
        time.sleep(1)  # for some answers; the figures are what is checked, not the time
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("interrupted", err)
        report = json.loads(out)
        self.assertFalse(report["complete"])
        self.assertEqual(len(report["phases"]), 1)
        self.assertLess(report["phases"][0]["seconds"], 600)

    def test_errors(self):
        server = ["--server", self.gateway]
        self.assertIn("Load:", run("--help").stdout)
        self.fails(2, "--server", "--rate", 1)
        self.fails(2, "--rate or --concurrency", *server)
        self.fails(2, "--rate", *server, "--rate", 1, "--concurrency", 1)
        self.fails(2, "--rate", *server, "--rate", 0)
        self.fails(2, "--high", *server, "--rate", 1, "--high", 0.7, "--low", 0.7)
        self.fails(1, "nothere", *server, "--rate", 1, "--data", "/nothere")
        self.fails(1, "--server: .*MODEL_NOT_FOUND", *server, "--rate", 1, "--model-name", "other")
        self.fails(1, "--server: .*UNAVAILABLE", "--server", "127.0.0.1:1", "--rate", 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
