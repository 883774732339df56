"""guidellm (PyPI), a load generator for OpenAI's API, against the edge as it is: both endpoints, streamed and in one piece, at a
fixed concurrency and at a fixed rate. CLAMOR_GUIDELLM names its command; skipped where there is none."""
import json
import os
import shutil
import subprocess
import unittest

from cluster import DEMO_MODEL, SECONDS, ClusterTest, main

GUIDELLM = os.environ.get("CLAMOR_GUIDELLM") or shutil.which("guidellm")
REQUESTS = int(os.environ.get("CLAMOR_GUIDELLM_REQUESTS", "8"))
TOKENS = 24


@unittest.skipUnless(GUIDELLM, "guidellm is not installed")
class GuidellmTest(ClusterTest):
    worker_flags = ("--threads", "1", "--max-sequences", "8", "--max-waiting", "64")

    def measure(self, path, profile, stream=True):
        """The report of one run of REQUESTS requests."""
        report = self.cluster.folder / "guidellm.json"
        command = [GUIDELLM, "run", "--disable-console",
                   "--backend", f"kind=openai_http,target=http://{self.cluster.gateway.api},request_format={path},stream={stream}",
                   "--profile", profile, "--constraint", f"kind=max_requests,count={REQUESTS}",
                   "--tokenizer", f"kind=hf_auto,model={DEMO_MODEL}",
                   "--data", f"kind=synthetic_text,prompt_tokens=48,output_tokens={TOKENS}",
                   "--output", f"kind=json,path={report}"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=5 * SECONDS, cwd=self.cluster.folder,
                             env={**os.environ, "HF_HUB_OFFLINE": "1"})
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        (measured,) = json.loads(report.read_text())["benchmarks"]
        return measured

    def answered(self, method):
        try:
            return self.cluster.gateway.metric("clamor_gateway_requests_total", method=method, outcome="ok")
        except AssertionError:  # the first request makes the series
            return 0

    def test_it_measures(self):
        for path, method in (("/v1/chat/completions", "ChatCompletions"), ("/v1/completions", "Completions")):
            for profile, stream in (("kind=concurrent,streams=4", True), ("kind=poisson,rate=4", True), ("kind=synchronous", False)):
                with self.subTest(path=path, profile=profile, stream=stream):
                    before = self.answered(method)
                    requests = self.measure(path, profile, stream)["requests"]
                    self.assertEqual([request["info"]["error"] for request in requests["errored"]], [])
                    self.assertEqual(len(requests["successful"]), REQUESTS)
                    self.assertEqual(self.answered(method) - before, REQUESTS, "what it counts is what we answered")
                    for request in requests["successful"]:
                        self.assertEqual(request["output_tokens"], TOKENS, "as our usage says")
                        self.assertGreaterEqual(request["prompt_tokens"], 48)
                        self.assertTrue(request["output"])
                        if stream:
                            self.assertLess(request["time_to_first_token_ms"], 1000 * request["request_latency"])
                            self.assertGreater(request["inter_token_latency_ms"], 0)



if __name__ == "__main__":
    main()
