"""`clamor eval` as a user meets it: figures that add up, answers that are the same, Ctrl-C, bad data, wrong flags."""
import json
import math
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CLAMOR = os.environ["CLAMOR"]
DEMO = ROOT / "deploy/demo-model"
GSM8K = ROOT / "tests/testdata/gsm8k/test-40.jsonl"
FAMILIES = ["mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"]
MODES = ["plain", "published", "merged:auto", "merged:8"]


def command(*arguments, model=DEMO):
    return [CLAMOR, "eval", "--model", str(model), "--threads", "1", *map(str, arguments)]


def run(*arguments, model=DEMO):
    return subprocess.run(command(*arguments, model=model), capture_output=True, text=True, timeout=120)


def spec_bench():
    """Two questions of each family, in the form of the published file."""
    questions = [json.loads(line)["question"] for line in GSM8K.read_text().splitlines()]
    for i, category in enumerate(["writing", "coding"] + [family for family in FAMILIES[1:] for _ in range(2)]):
        yield {"question_id": 81 + i, "category": category, "turns": [questions[i], "Again, shorter."]}


class EvalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)

    def write(self, name, *lines):
        path = self.folder / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    def ok(self, *arguments, **keywords):
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def json(self, *arguments, **keywords):
        done = self.ok("--output", "json", *arguments, **keywords)
        self.assertEqual(done.stdout.count("\n"), 1, "one line")
        return json.loads(done.stdout)

    def fails(self, code, pattern, *arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr.splitlines()[-1], "^clamor: .*(" + pattern + ")")


class Figures(EvalTest):
    def check_mode(self, figures, mode, answers):
        """The sums of one mode are those of its answers, and each count is told in two ways."""
        own = [answer["modes"][mode] for answer in answers]
        self.assertEqual(figures["prompts"], len(answers))
        self.assertEqual(figures["identical"], figures["compared"])
        self.assertEqual(figures["compared"], len(answers))
        for field in ("tokens", "forwards", "draft_nodes"):
            self.assertEqual(figures[field], sum(answer[field] for answer in own), field)
        self.assertEqual(figures["tokens"], sum(len(answer["token_ids"]) for answer in answers))
        self.assertEqual(figures["decode_tokens"], sum(answer["tokens"] - answer["first_tokens"] for answer in own))
        self.assertAlmostEqual(figures["tokens_per_forward"], figures["tokens"] / figures["forwards"])
        self.assertAlmostEqual(figures["tokens_per_second"], figures["decode_tokens"] / figures["decode_seconds"])
        emitted = figures["emitted_per_forward"]
        self.assertEqual(sum(emitted), figures["forwards"])
        self.assertEqual(sum(n * forwards for n, forwards in enumerate(emitted)), figures["tokens"])
        self.assertEqual(sum(figures["drafted_by_source"].values()), figures["draft_nodes"])
        self.assertGreaterEqual(figures["forwards"] + sum(figures["accepted_by_source"].values()), figures["tokens"])
        self.assertLessEqual(figures["steps"], figures["forwards"])
        for reached, matched in zip(figures["trees_by_depth"], figures["accepted_by_depth"]):
            self.assertLessEqual(matched, reached)
        self.assertEqual(set(figures["seconds_by_phase"]), {"plan", "draft", "forward", "verify", "commit"})
        self.assertGreater(figures["seconds_by_phase"]["forward"], 0)

    def check_plain(self, figures):
        self.assertEqual(figures["tokens_per_forward"], 1)
        self.assertEqual(figures["draft_nodes"], 0)
        self.assertEqual(figures["undrafted_forwards"], figures["forwards"])
        self.assertEqual((figures["ratio_median"], figures["ratio_total"]), (1, 1))
        self.assertIsNone(figures["brier"])

    def check_calibration(self, figures):
        """Estimates lie in their buckets; nodes of unknown survival are in none."""
        nodes = 0
        for bucket in figures["calibration"]:
            nodes += bucket["nodes"]
            if bucket["nodes"] > 0:
                self.assertTrue(bucket["from"] - 1e-6 <= bucket["predicted"] <= bucket["to"] + 1e-6, bucket)
                self.assertTrue(0 <= bucket["observed"] <= 1)
        self.assertTrue(0 < nodes <= figures["draft_nodes"])
        self.assertTrue(0 <= figures["brier"] <= 1)

    def test_spec_bench_adds_up(self):
        data = self.write("question.jsonl", *spec_bench())
        report = self.json("--suite", "spec_bench", "--data", data, "--limit", 1, "--max-tokens", 12, "--modes",
                           "plain,published,merged", "--nodes", "auto,8")
        self.assertEqual(report["modes"], MODES)
        self.assertEqual([entry["category"] for entry in report["categories"]], FAMILIES)
        self.assertEqual(report["prompts"], {"planned": 6, "answered": 6, "too_long": {}})
        self.assertIs(report["complete"], True)
        self.assertIs(report["lossless"], True)
        self.assertEqual(report["differences"], [])
        self.assertIs(report["options"]["chat"], True)
        self.assertEqual([answer["prompt"] for answer in report["answers"]], ["81", "83", "85", "87", "89", "91"])
        for group in report["categories"] + [{"category": None, "modes": report["overall"]}]:
            answers = [answer for answer in report["answers"] if group["category"] in (None, answer["category"])]
            for mode in MODES:
                self.check_mode(group["modes"][mode], mode, answers)
        self.check_plain(report["overall"]["plain"])
        self.assertIsNone(report["overall"]["published"]["brier"])
        self.assertEqual(report["overall"]["published"]["nodes_per_forward"], 68)
        self.assertLessEqual(report["overall"]["merged:8"]["nodes_per_forward"], 8)
        self.assertGreater(report["overall"]["merged:8"]["tokens_per_forward"], 1)
        for mode in ("merged:auto", "merged:8"):
            self.check_calibration(report["overall"][mode])

    def test_answers_are_those_of_generate(self):
        """The same ids as by `clamor generate`, greedy and not."""
        data = self.write("one.jsonl", {"prompt": "What is 3 + 4?"})
        for sampling in ([], ["--temperature", 1, "--seed", 5, "--top-k", 40]):
            common = ["--max-tokens", 16, *sampling]
            report = self.json("--suite", "prompts", "--data", data, "--modes", "merged:16,plain", *common)
            generate = subprocess.run([CLAMOR, "generate", "--model", DEMO, "--prompt", "What is 3 + 4?", "--chat",
                                       "--output", "json", *map(str, common)], capture_output=True, text=True, check=True)
            self.assertEqual(report["answers"][0]["token_ids"], json.loads(generate.stdout)["token_ids"])

    def test_humaneval_is_continued_and_gsm8k_asked(self):
        function = "def add(a, b):\n    "
        data = self.write("HumanEval.jsonl", {"task_id": "HumanEval/0", "prompt": function})
        few = ["--max-tokens", 4, "--modes", "merged:4", "--limit", 2]
        report = self.json("--suite", "humaneval", "--data", data, *few)
        self.assertEqual(report["answers"][0]["prompt"], "HumanEval/0")
        self.assertIs(report["options"]["chat"], False)
        self.assertIsNone(report["lossless"], "nothing to compare with")
        self.assertEqual(report["overall"]["merged:4"]["compared"], 0)
        ids = subprocess.run([CLAMOR, "tokenize", "--model", DEMO, "--text", function], capture_output=True, text=True)
        self.assertEqual(report["answers"][0]["prompt_ids"], json.loads(ids.stdout)["ids"])
        chat = self.json("--suite", "humaneval", "--data", data, "--chat", *few)
        self.assertGreater(len(chat["answers"][0]["prompt_ids"]), len(report["answers"][0]["prompt_ids"]))
        report = self.json("--suite", "gsm8k", "--data", GSM8K, *few)
        self.assertEqual([answer["line"] for answer in report["answers"]], [1, 2])
        self.assertIs(report["options"]["chat"], True)

    def test_long_prompts_are_left_out(self):
        data = self.write("long.jsonl", {"prompt": "word " * 2000}, {"prompt": "word"})
        few = ["--suite", "prompts", "--data", data, "--modes", "plain", "--max-tokens"]
        report = self.json(*few, 2)
        self.assertEqual(report["prompts"], {"planned": 1, "answered": 1, "too_long": {"prompts": 1}})
        self.assertEqual(report["answers"][0]["line"], 2)
        self.fails(1, r"long.jsonl: no prompt leaves room for --max-tokens 1024 in the context of 1024 tokens", *few,
                   1024)

    def test_fresh_knowledge_changes_no_token(self):
        few = ["--suite", "gsm8k", "--data", GSM8K, "--limit", 2, "--max-tokens", 12, "--modes", "merged:8,plain"]
        kept, fresh = self.json(*few), self.json(*few, "--fresh")
        self.assertIs(fresh["lossless"], True)
        self.assertEqual([a["token_ids"] for a in kept["answers"]], [a["token_ids"] for a in fresh["answers"]])
        self.assertEqual(kept["answers"][0]["modes"]["merged:8"]["forwards"],
                         fresh["answers"][0]["modes"]["merged:8"]["forwards"], "the first prompt finds nothing in both")


class Outputs(EvalTest):
    FEW = ["--suite", "gsm8k", "--data", GSM8K, "--limit", 2, "--max-tokens", 12]

    def test_table(self):
        done = self.ok(*self.FEW)
        self.assertNotRegex(done.stdout + done.stderr, r"[^\n -~]", "not a terminal")
        self.assertRegex(done.stdout, r"(?m)^gsm8k     plain +2 +24 +1\.00 +[\d.]+ +1\.00 +1\.00 +2 of 2 +0\.0$")
        self.assertRegex(done.stdout, r"(?m)^ +merged:auto +2 +24 .* 2 of 2 ")
        for title in ("By category", "Accepted tokens by source", "Tokens of a forward", "Accepted by depth",
                      "Where a step's time goes", "Calibration, merged:auto"):
            self.assertRegex(done.stdout, "(?m)^" + title)
        self.assertRegex(done.stderr, r"(?m)^prompt 2 of 2 \(gsm8k\), \w+.*: [\d.]+ tokens/s, 0\.0 s left$")

    def test_page_in_a_file(self):
        page = self.folder / "eval.html"
        done = self.ok(*self.FEW, "--output", "html", "--file", page)
        self.assertEqual(done.stdout, "")
        self.assertTrue(done.stderr.endswith(f"wrote {page}\n"), done.stderr)
        html = page.read_text()
        self.assertIn("Evaluation of demo-model", html)
        self.assertIn("prefers-color-scheme: dark", html)
        self.assertNotRegex(html, r"https?://")
        self.assertNotRegex(html, r"(?i)\b(src|href)\s*=\s*[\"']?[^\"'#>\s]")
        self.assertNotRegex(html, r"(?i)@import|url\(")
        self.assertNotIn("nan", re.sub("<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S))

    def test_a_line_on_a_terminal_and_ctrl_c(self):
        """What was answered until then is told; the command fails."""
        output = self.folder / "interrupted.json"
        master, slave = pty.openpty()
        process = subprocess.Popen(
            command("--suite", "gsm8k", "--data", GSM8K, "--limit", 0, "--max-tokens", 200, "--ignore-eos", "--modes",
                    "plain,merged:8", "--output", "json", "--file", output), stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        shown = b""
        while select.select([master], [], [], 60)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if b"prompt 2 of 40" in shown and process.poll() is None:
                process.send_signal(signal.SIGINT)
                break
        process.wait(timeout=60)
        while select.select([master], [], [], 0)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:
                break
        os.close(master)
        self.assertEqual(process.returncode, 1, shown)
        self.assertRegex(shown, rb"\rprompt 1 of 40 \(gsm8k\), plain: ")
        self.assertRegex(shown, rb"clamor: interrupted after prompt [12] of 40")
        report = json.loads(output.read_text())
        self.assertIs(report["complete"], False)
        self.assertEqual(report["prompts"]["planned"], 40)
        self.assertEqual(report["prompts"]["answered"], len(report["answers"]))
        self.assertGreaterEqual(len(report["answers"]), 1)

    def test_perplexity(self):
        texts = [json.loads(line)["question"] for line in GSM8K.read_text().splitlines()[:3]]
        documents = self.write("documents.jsonl", *({"id": f"d{i}", "text": text} for i, text in enumerate(texts)))
        tiny = ROOT / "tests/testdata/tiny-llama"
        report = self.json("--suite", "perplexity", "--data", documents, "--against", "fp32", "--weights", "bf16", model=tiny)
        self.assertEqual(report["documents"], 3)
        self.assertEqual([report["against"]["weights"], report["judged"]["weights"]], ["fp32", "bf16"])
        for side in (report["against"], report["judged"]):  # against what `clamor score` says of each text
            loss = tokens = 0
            for text in texts:
                done = subprocess.run([CLAMOR, "score", "--model", str(tiny), "--threads", "1", "--weights", side["weights"],
                                       "--prompt", text], capture_output=True, text=True, timeout=120)
                values = json.loads(done.stdout)["logprobs"][1:]
                loss -= sum(values)
                tokens += len(values)
            self.assertEqual(report["tokens"], tokens)
            self.assertAlmostEqual(side["perplexity"], math.exp(loss / tokens), places=6)
        self.assertNotEqual(report["ratio"], 1)
        self.assertAlmostEqual(report["ratio"], report["judged"]["perplexity"] / report["against"]["perplexity"])
        self.assertTrue(0.9 < report["agreement"] <= 1)
        self.assertIn(report["worst_document"], ["d0", "d1", "d2"])
        self.assertGreater(abs(math.log(report["worst_ratio"])), 0)

        same = self.json("--suite", "perplexity", "--data", documents, "--against", "fp32", "--weights", "fp32", "--limit", "2",
                         "--document-tokens", "9", model=tiny)
        self.assertEqual([same["documents"], same["tokens"], same["ratio"], same["agreement"]], [2, 16, 1, 1])
        self.assertIn("perplexity", self.ok("--suite", "perplexity", "--data", documents, model=tiny).stdout)
        self.fails(2, "--output", "--suite", "perplexity", "--data", documents, "--output", "html")
        self.fails(1, "bad.jsonl:1: .*'text'", "--suite", "perplexity", "--data", self.write("bad.jsonl", {"txt": "a"}))
        self.fails(1, "no document has two tokens", "--suite", "perplexity", "--data", self.write("one.jsonl", {"text": "a"}))


class Refusals(EvalTest):
    def test_wrong_usage(self):
        good = ["--suite", "gsm8k", "--data", GSM8K]
        self.fails(2, "--suite", "--suite", "mmlu", "--data", GSM8K)
        self.fails(2, "--suite", "--data", GSM8K)
        self.fails(2, "--data", "--suite", "gsm8k")
        self.fails(2, "--modes: 'oak'", *good, "--modes", "plain,oak")
        self.fails(2, "--modes: plain is given twice", *good, "--modes", "plain,plain")
        self.fails(2, "--nodes: '129'", *good, "--nodes", "129")
        self.fails(2, "--output", *good, "--output", "xml")
        self.fails(2, "--limit", *good, "--limit", "-1")
        self.fails(2, "--chat", *good, "--chat", "--no-chat")
        self.fails(2, "--retrieval", *good, "--fresh", "--retrieval", "127.0.0.1:1")
        self.fails(2, "top_p", *good, "--top-p", "0")

    def test_bad_data_is_named_by_file_and_line(self):
        self.fails(1, "/nowhere: cannot read", "--suite", "gsm8k", "--data", "/nowhere")
        first = next(spec_bench())
        data = self.write("bad.jsonl", first, dict(first, category="cooking"))
        self.fails(1, r'bad\.jsonl:2: field .category. is "cooking"', "--suite", "spec_bench", "--data", data)
        data = self.write("broken.jsonl", {"question": "x"}, "{\"question\": ")
        self.fails(1, r"broken\.jsonl:2: not a JSON object", "--suite", "gsm8k", "--data", data)
        data = self.folder / "bytes.txt"
        data.write_bytes(b"fine\n\xff\n")
        self.fails(1, r"bytes\.txt:2: .*UTF-8", "--suite", "prompts", "--data", data, "--no-chat")
        self.fails(1, "/nowhere/x.html", "--suite", "gsm8k", "--data", GSM8K, "--limit", 1, "--max-tokens", 1, "--modes",
                   "plain", "--file", "/nowhere/x.html")

if __name__ == "__main__":
    unittest.main()
