"""Every verb of `clamor` on small models: exit codes, JSON fields, error lines; alone and against the three servers."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CLAMOR = os.environ["CLAMOR"]
TINY = str(ROOT / "tests/testdata/tiny-qwen2")
DEMO = str(ROOT / "deploy/demo-model")
GOLDEN = json.loads((ROOT / "tests/testdata/tiny-qwen2/golden.json").read_text())
FIELDS = {"model", "prompt_tokens", "token_ids", "text", "finish_reason", "matched_stop", "seed", "forwards",
          "tokens_per_forward", "prefill_seconds", "decode_seconds", "tokens_per_second", "draft_nodes",
          "accepted_by_source"}


def run(*arguments, stdin=None, timeout=120):
    return subprocess.run([CLAMOR, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout)


class CliTest(unittest.TestCase):
    def ok(self, *arguments, **keywords):
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def json(self, *arguments, **keywords):
        done = self.ok(*arguments, **keywords)
        self.assertEqual(done.stdout.count("\n"), 1, "one line")
        return json.loads(done.stdout)

    def fails(self, code, pattern, *arguments, **keywords):
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, code, done.stderr)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("loaded ")]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertRegex(lines[0], pattern)
        self.assertEqual(done.stdout, "")


class Basics(CliTest):
    def test_version_and_help(self):
        self.assertRegex(self.ok("--version").stdout, r"^clamor \d+\.\d+\.\d+\n$")
        overview = self.ok("--help").stdout
        for verb in "generate chat score tokenize detokenize ingest eval status checkpoint".split():
            self.assertIn(verb, overview)
            self.assertIn("--help", self.ok(verb, "--help").stdout)
        for group in ("Prompt:", "Model:", "Answer:", "Sampling:", "Speculation:"):
            self.assertIn(group, self.ok("generate", "--help").stdout)

    def test_wrong_usage(self):
        self.fails(2, "subcommand")
        self.fails(2, "'frob'", "frob")
        self.fails(2, "--model", "generate", "--prompt", "x")
        self.fails(2, "prompt", "generate", "--model", TINY)
        self.fails(2, "--max-tokens", "generate", "--model", TINY, "--prompt", "x", "--max-tokens", "0")
        self.fails(2, "--temperature", "generate", "--model", TINY, "--prompt", "x", "--temperature", "-1")
        self.fails(2, "top_p", "generate", "--model", TINY, "--prompt", "x", "--top-p", "0")
        for flag, value, words in (
                ("--repetition-penalty", 0, "repetition_penalty is 0"), ("--presence-penalty", 3, "presence_penalty is 3"),
                ("--frequency-penalty", 3, "frequency_penalty is 3"), ("--logit-bias", "5", "--logit-bias: '5'"),
                ("--logit-bias", "5:x", "--logit-bias: '5:x'"), ("--logit-bias", "5:1,5:2", "token 5 is given twice"),
                ("--logit-bias", "5:101", r"logit_bias\[5\] is 101"), ("--ban", "1,x", "--ban"),
                ("--stop-ids", "x", "--stop-ids"), ("--min-tokens", 300, "min_tokens is 300"),
                ("--logprobs", 21, "--logprobs")):
            self.fails(2, words, "generate", "--model", TINY, "--prompt", "x", flag, value)
        self.fails(2, "--nodes", "generate", "--model", TINY, "--prompt", "x", "--nodes", "129")
        self.fails(2, "--tree", "generate", "--model", TINY, "--prompt", "x", "--tree", "oak")
        self.fails(2, "--ids", "generate", "--model", TINY, "--ids", "1,x")
        self.fails(2, "--ids", "generate", "--model", TINY, "--ids", "1", "--prompt", "x")
        self.fails(2, "--server", "generate", "--model", TINY, "--server", "h:1", "--prompt", "x")
        self.fails(2, "--store", "ingest", "--model", TINY, __file__)
        self.fails(2, "--server", "status")

    def test_failures_name_what_is_wrong(self):
        self.fails(1, "/nowhere", "generate", "--model", "/nowhere", "--prompt", "x")
        self.fails(1, "/nowhere", "generate", "--model", TINY, "--prompt-file", "/nowhere")
        self.fails(1, "CUDA", "generate", "--model", TINY, "--prompt", "x", "--device", "cuda")
        self.fails(1, "--weights", "generate", "--model", TINY, "--prompt", "x", "--weights", "int5")
        self.fails(1, "--kv: 'fp16' must be fp32, bf16 or int8", "generate", "--model", TINY, "--prompt", "x",
                   "--kv", "fp16")
        self.fails(1, r"banned_token_ids\[1\] is 640, must be in \[0, 640\)", "generate", "--model", TINY, "--ids", "1",
                   "--ban", "1,640")
        self.fails(1, "id 999999 ", "generate", "--model", TINY, "--ids", "1,999999")
        self.fails(1, "UTF-8", "generate", "--model", TINY, "--prompt", b"\xff".decode("utf-8", "surrogateescape"))
        self.fails(1, r"^clamor: prompt of 3 tokens and max_tokens 99999 exceed the context of \d+ tokens$",
                   "generate", "--model", TINY, "--ids", "1,2,3", "--max-tokens", "99999")
        self.fails(1, "UNAVAILABLE", "generate", "--server", "127.0.0.1:1", "--prompt", "x")
        self.fails(1, "UNAVAILABLE", "status", "--server", "127.0.0.1:1")
        environment = dict(os.environ, CLAMOR_CPU_TARGET="z80")
        done = subprocess.run([CLAMOR, "score", "--model", TINY, "--ids", "1,2"], capture_output=True, text=True,
                              env=environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn("z80", done.stderr)


class Generate(CliTest):
    def generate(self, *arguments):
        return self.json("generate", "--output", "json", *arguments)

    def test_json_has_the_promised_fields(self):
        answer = self.generate("--model", TINY, "--ids", "1,2,3", "--max-tokens", 16, "--ignore-eos")
        self.assertEqual(set(answer), FIELDS)
        self.assertEqual(answer["model"], "tiny-qwen2")
        self.assertEqual(answer["prompt_tokens"], 3)
        self.assertEqual(len(answer["token_ids"]), 16)
        self.assertEqual(answer["finish_reason"], "length")
        self.assertLessEqual({"jacobi", "context", "store", "adjacency", "recycled"}, set(answer["accepted_by_source"]))
        accepted = sum(answer["accepted_by_source"].values())
        self.assertLessEqual(answer["forwards"], 16)
        self.assertGreaterEqual(answer["forwards"] + accepted, 16)
        self.assertAlmostEqual(answer["tokens_per_forward"], 16 / answer["forwards"])

    def test_ids_do_not_depend_on_speculation_threads_or_sampling_noise(self):
        for sampling in ([], ["--temperature", 1.0, "--seed", 7, "--top-k", 50]):
            common = ["--model", TINY, "--ids", "5,6,7,5,6,7,5,6", "--max-tokens", 32, "--ignore-eos", *sampling]
            plain = self.generate(*common, "--nodes", 0, "--threads", 1)
            self.assertEqual(plain["tokens_per_forward"], 1)
            self.assertEqual(plain["draft_nodes"], 0)
            for more in (["--nodes", 16], ["--nodes", "auto"], ["--tree", "published"], ["--threads", 2]):
                self.assertEqual(self.generate(*common, *more)["token_ids"], plain["token_ids"], more)

    def test_what_formats_change_nothing_else_does(self):
        common = ["--model", TINY, "--ids", "5,6,7,5,6,7,5,6", "--max-tokens", 24, "--ignore-eos", "--logprobs", 1]
        stored = self.generate(*common, "--nodes", 0)["logprobs"]
        for held in (["--weights", "int8"], ["--weights", "int4"], ["--kv", "bf16"], ["--kv", "int8"]):
            plain = self.generate(*common, *held, "--nodes", 0, "--threads", 1)
            self.assertNotEqual(plain["logprobs"], stored, held)
            drafted = self.generate(*common, *held, "--nodes", 16, "--threads", 2)
            self.assertEqual(drafted["token_ids"], plain["token_ids"], held)
            self.assertEqual(drafted["logprobs"], plain["logprobs"], held)

    def test_a_second_start_reads_packed_weights(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "tiny.packed")
            common = ["--model", TINY, "--ids", "5,6,7,5,6,7", "--max-tokens", 8, "--weights", "int4"]
            plain = self.ok("generate", *common)
            self.assertNotIn("packed", plain.stderr)
            first = self.ok("generate", *common, "--packed-weights", file)
            self.assertRegex(first.stderr, rf"loaded tiny-qwen2: .* MiB of int4 weights in .*; wrote {file}\n")
            second = self.ok("generate", *common, "--packed-weights", file)
            self.assertRegex(second.stderr, rf"loaded tiny-qwen2: .* MiB of int4 weights from {file} in .* s")
            self.assertEqual([first.stdout, second.stdout], [plain.stdout] * 2)
            self.assertEqual(os.listdir(folder), ["tiny.packed"])
            # One file serves one way to hold the weights; the other side of a comparison does without.
            self.fails(1, f'^clamor: {file}: holds the weights as "int4", wanted is "int8"; delete it',
                       "generate", "--model", TINY, "--ids", "1", "--weights", "int8", "--packed-weights", file)
            texts = os.path.join(folder, "texts.jsonl")
            pathlib.Path(texts).write_text(json.dumps({"text": "one two three"}))
            done = self.ok("eval", "--model", TINY, "--suite", "perplexity", "--data", texts, "--weights", "int4",
                           "--against", "int8", "--packed-weights", file)
            self.assertEqual(done.stderr.count(f" from {file} "), 1, done.stderr)
            with open(file, "r+b") as damaged:
                damaged.truncate(5000)
            self.fails(1, f"^clamor: {file}: has 5000 bytes", "generate", *common, "--packed-weights", file)
            self.fails(1, "^clamor: /nowhere/w: cannot create", "generate", *common, "--packed-weights", "/nowhere/w")

    def test_an_unset_seed_is_told_and_gives_the_same_again(self):
        common = ["--model", TINY, "--ids", "5,6,7", "--max-tokens", 16, "--temperature", 1.5, "--ignore-eos"]
        first = self.generate(*common)
        self.assertEqual(self.generate(*common, "--seed", first["seed"])["token_ids"], first["token_ids"])
        self.assertNotEqual(self.generate(*common)["seed"], first["seed"])

    def test_text_is_streamed_and_speed_told(self):
        answer = self.generate("--model", DEMO, "--prompt", "What is 3 + 4?", "--chat", "--max-tokens", 40)
        done = self.ok("generate", "--model", DEMO, "--prompt", "What is 3 + 4?", "--chat", "--max-tokens", 40)
        self.assertEqual(done.stdout, answer["text"] + "\n")
        self.assertRegex(done.stderr, r"loaded demo-model: .* MiB of bf16 weights in .* s, peak memory .* MiB")
        self.assertRegex(done.stderr, r"tokens/s, .* tokens per forward")

    def test_stop_strings_cut_the_text(self):
        common = ["--model", DEMO, "--prompt", "Hello, ", "--max-tokens", 30, "--nodes", 0]
        whole = self.generate(*common)
        self.assertGreater(len(whole["text"]), 6)
        stop = whole["text"][4:6]
        answer = self.generate(*common, "--stop", stop)
        self.assertEqual(answer["text"], whole["text"][: whole["text"].index(stop)])
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["matched_stop"], stop)

    def test_what_changes_logits(self):
        common = ["--model", TINY, "--ids", "5,6,7,5,6,7", "--max-tokens", 24, "--ignore-eos"]
        whole = self.generate(*common)["token_ids"]
        banned = self.generate(*common, "--ban", f"{whole[0]},{whole[3]}")["token_ids"]
        self.assertFalse({whole[0], whole[3]} & set(banned))
        self.assertEqual(self.generate(*common, "--logit-bias", f"9:100,{whole[0]}:-100")["token_ids"], [9] * 24)
        self.assertEqual(self.generate(*common, "--stop-ids", whole[5])["token_ids"], whole[:whole.index(whole[5]) + 1])
        self.assertGreater(len(self.generate(*common, "--stop-ids", whole[5], "--min-tokens", 12)["token_ids"]), 12)
        once = self.generate(*common, "--presence-penalty", 2, "--frequency-penalty", 2, "--repetition-penalty", 100)
        self.assertGreater(len(set(once["token_ids"])), len(set(whole)))

    def test_logprobs(self):
        answer = self.generate("--model", TINY, "--ids", "1,2,3", "--max-tokens", 8, "--ignore-eos", "--logprobs", 3)
        self.assertEqual(set(answer), FIELDS | {"logprobs"})
        self.assertEqual(len(answer["logprobs"]), 8)
        ids = ",".join(map(str, [1, 2, 3, *answer["token_ids"]]))
        scored = self.json("score", "--model", TINY, "--ids", ids)["logprobs"][3:]
        for token_id, token, logprob in zip(answer["token_ids"], answer["logprobs"], scored, strict=True):
            self.assertAlmostEqual(token["logprob"], logprob, places=5)
            self.assertEqual(token["top"][0], {"id": token_id, "logprob": token["logprob"]})
            self.assertEqual(len(token["top"]), 3)

    def test_json_schema(self):
        schema = {"type": "object", "required": ["kind", "sizes"], "properties": {
            "kind": {"enum": ["a", "b"]}, "sizes": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}}}
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump(schema, file)
            file.flush()
            common = ["--model", DEMO, "--prompt", "Hello, ", "--max-tokens", 200, "--json-schema", file.name]
            for sampling in ([], ["--temperature", 1, "--seed", 3]):
                answer = self.generate(*common, *sampling)
                document = json.loads(answer["text"])
                self.assertEqual(list(document), ["kind", "sizes"])
                self.assertIn(document["kind"], "ab")
                self.assertIn(len(document["sizes"]), (2, 3))
                self.assertEqual(answer["finish_reason"], "stop")
                plain = self.generate(*common, *sampling, "--nodes", 0)
                self.assertEqual(plain["token_ids"], answer["token_ids"])
            self.fails(2, "--ignore-eos", "generate", *common, "--ignore-eos")
        with tempfile.NamedTemporaryFile("w") as file:
            file.write('{"type": "string", "pattern": "^a"}')
            file.flush()
            self.fails(2, "--json-schema .*pattern", "generate", "--model", DEMO, "--prompt", "x", "--json-schema", file.name)
        self.fails(1, "cannot read /nowhere", "generate", "--model", DEMO, "--prompt", "x", "--json-schema", "/nowhere")

    def test_several_answers(self):
        common = ["--model", TINY, "--ids", "5,6,7", "--max-tokens", 8, "--temperature", 1.5, "--ignore-eos"]
        lines = self.ok("generate", "--output", "json", *common, "--n", 3, "--seed", 40).stdout.splitlines()
        self.assertEqual([json.loads(line)["seed"] for line in lines], [40, 41, 42])
        self.assertEqual(json.loads(lines[2])["token_ids"], self.generate(*common, "--seed", 42)["token_ids"])
        self.assertEqual(self.ok("generate", *common, "--n", 3).stdout.count("---\n"), 2)

    def test_prompt_file_is_the_prompt(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("Hello, ")
            file.flush()
            common = ["--model", DEMO, "--max-tokens", 8]
            self.assertEqual(self.generate(*common, "--prompt-file", file.name)["token_ids"],
                             self.generate(*common, "--prompt", "Hello, ")["token_ids"])

    def test_ctrl_c_cancels(self):
        process = subprocess.Popen(
            [CLAMOR, "generate", "--model", TINY, "--ids", "1,2", "--ignore-eos", "--nodes", "0", "--max-tokens", "400",
             "--output", "text"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.read(1)  # it answers
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        if process.returncode != 0:  # it may have been done already
            self.assertEqual(process.returncode, 1)
            self.assertIn(b"cancelled", stderr)


class Chat(CliTest):
    def test_a_conversation(self):
        done = self.ok("chat", "--model", DEMO, "--max-tokens", 24, "--show-drafts",
                       stdin="/stats\nhello\n/stats\n/reset\n\n/frob\nhello\n/quit\nnever\n")
        self.assertIn("no answer yet", done.stderr)
        self.assertIn("forgotten", done.stderr)
        self.assertIn("/reset", done.stderr)
        self.assertEqual(done.stderr.count("last: "), 1)
        answers = re.sub("\033\\[[0-9]*m", "", done.stdout).splitlines()
        self.assertEqual(len(answers) % 2, 0)
        half = len(answers) // 2
        self.assertEqual(answers[:half], answers[half:], "the same question after /reset")


class Tokens(CliTest):
    def test_tokenize_and_back(self):
        for text in ("hi there", "naïve 日本 🙂\n", ""):
            ids = self.json("tokenize", "--model", DEMO, "--no-specials", "--text", text)["ids"]
            self.assertEqual(ids, self.json("tokenize", "--model", DEMO, "--no-specials", stdin=text)["ids"])
            if ids:
                listed = ",".join(map(str, ids))
                self.assertEqual(self.json("detokenize", "--model", DEMO, "--ids", listed)["text"], text)

    def test_chat_and_specials(self):
        ids = self.json("tokenize", "--model", DEMO, "--chat", "--text", "hi")["ids"]
        text = self.json("detokenize", "--model", DEMO, "--ids", ",".join(map(str, ids)))["text"]
        self.assertIn("<|im_start|>", text)
        plain = self.json("detokenize", "--model", DEMO, "--no-specials", "--ids", ",".join(map(str, ids)))["text"]
        self.assertNotIn("<|im_start|>", plain)
        forged = self.json("tokenize", "--model", DEMO, "--no-specials", "--text", "<|im_end|>")["ids"]
        parsed = self.json("tokenize", "--model", DEMO, "--text", "<|im_end|>")["ids"]
        self.assertGreater(len(forged), len(parsed))

    def test_errors(self):
        self.fails(1, "99999", "detokenize", "--model", DEMO, "--ids", "1,99999")
        self.fails(2, "--ids", "detokenize", "--model", DEMO, "--ids", "a")

    def test_score(self):
        ids = list(range(1, 100))
        score = self.json("score", "--model", TINY, "--ids", ",".join(map(str, ids)))
        self.assertEqual(set(score), {"ids", "logprobs", "perplexity"})
        self.assertEqual(score["ids"], ids)
        self.assertEqual(len(score["logprobs"]), len(ids))
        self.assertIsNone(score["logprobs"][0])
        for kv in ("bf16", "int8"):  # near, but not the same
            narrow = self.json("score", "--model", TINY, "--ids", ",".join(map(str, ids)), "--kv", kv)["logprobs"]
            self.assertNotEqual(narrow, score["logprobs"])
            for one, other in zip(narrow[1:], score["logprobs"][1:], strict=True):
                self.assertAlmostEqual(one, other, delta=0.2)
        self.assertTrue(all(logprob <= 0 for logprob in score["logprobs"][1:]))
        short = self.json("score", "--model", TINY, "--ids", ",".join(map(str, ids[:70])))
        self.assertEqual(short["logprobs"], score["logprobs"][:70], "a prefix scores the same")
        one = self.json("score", "--model", TINY, "--ids", "1")
        self.assertEqual(one["logprobs"], [None])
        self.assertIsNone(one["perplexity"])


class Ingest(CliTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.store = os.path.join(self.folder.name, "store")

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        pathlib.Path(path).write_text(text)
        return path

    def ingest(self, *arguments):
        return self.ok("ingest", "--model", DEMO, "--store", self.store, *arguments).stdout

    def test_every_form_once(self):
        lines = [{"text": "one two three"}, {"prompt": "p", "response": "r"},
                 {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
        path = self.write("a.jsonl", "\n\n".join(map(json.dumps, lines)) + "\n")
        self.assertRegex(self.ingest(path), r"^3 documents \(3 new\), \d+ tokens, 17 bytes\n$")
        self.assertRegex(self.ingest(path), r"^3 documents \(0 new\)", "again")
        self.assertRegex(self.ingest(path, "--tenant", "other"), r"^3 documents \(3 new\)")
        self.assertRegex(self.ingest(path, "--limit", 2), r"^2 documents")
        plain = self.write("b.txt", "plain text\nof two lines\n")
        self.assertRegex(self.ingest(plain), r"^1 documents \(1 new\), \d+ tokens, 24 bytes")

    def test_segments_are_built_and_loaded(self):
        paths = [self.write(f"{name}.jsonl", json.dumps({"text": name * 50}) + "\n") for name in ("one ", "two ", "three ")]
        segments = os.path.join(self.folder.name, "segments")
        built = self.ok("ingest", "--model", DEMO, "--segments", segments, "--jobs", 2, *paths).stdout
        self.assertRegex(built, r"^3 documents \(in 2 segments\), \d+ tokens, 700 bytes\n$")
        self.assertRegex(self.ingest(paths[0]), r"^1 documents \(1 new\)")
        loaded = self.ok("ingest", "--store", self.store, "--load", segments).stdout
        self.assertRegex(loaded, r"^3 documents \(2 new\), \d+ new tokens, from 2 segments\n$")
        self.assertRegex(self.ingest(*paths), r"^3 documents \(0 new\)")
        self.fails(1, "/nowhere", "ingest", "--store", self.store, "--load", "/nowhere")
        self.fails(2, "--model", "ingest", "--store", self.store, paths[0])
        self.fails(2, "files", "ingest", "--store", self.store, "--model", DEMO)
        self.fails(2, "--jobs", "ingest", "--store", self.store, "--model", DEMO, "--jobs", 2, paths[0])
        self.fails(2, "--limit", "ingest", "--segments", segments, "--model", DEMO, "--jobs", 2, "--limit", 1, *paths)
        for name in os.listdir(segments):
            with open(os.path.join(segments, name), "r+b") as file:
                file.truncate(40)
        self.fails(1, r"\.seg: ", "ingest", "--store", self.store, "--load", segments)

    def test_bad_lines_are_named_or_skipped(self):
        good = json.dumps({"text": "x y z"})
        bad = {"{": "not a JSON object", "[]": "not a JSON object", '{"text": 5}': "'text'", '{"prompt": "x"}': "'response'",
               '{"messages": []}': "'messages'", '{"messages": [{"role": "user"}]}': "'content'", '{"other": 1}': "none of"}
        for line, pattern in bad.items():
            path = self.write("bad.jsonl", good + "\n" + line + "\n" + good + "\n")
            self.fails(1, r"bad\.jsonl:2: .*" + pattern, "ingest", "--model", DEMO, "--store", self.store, path)
            self.assertRegex(self.ingest("--skip-bad", path), "^2 documents .*, 1 bad lines skipped")
        self.fails(1, "/nowhere", "ingest", "--model", DEMO, "--store", self.store, "/nowhere")


class Servers(CliTest):
    """The same verbs against a gateway, a worker and a store."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.processes = []
        cls.retrieval = cls.start("CLAMOR_RETRIEVAL", "--store", os.path.join(cls.folder.name, "store"))
        cls.packed = os.path.join(cls.folder.name, "demo.packed")
        cls.worker = cls.start("CLAMOR_WORKER", "--model", DEMO, "--threads", "1", "--retrieval", cls.retrieval,
                               "--packed-weights", cls.packed)
        cls.gateway = cls.start("CLAMOR_GATEWAY", "--workers", cls.worker)
        for _ in range(600):
            if run("generate", "--server", cls.gateway, "--prompt", "x", "--max-tokens", 1).returncode == 0:
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
                return re.search("grpc=(.*)", pathlib.Path(ports).read_text())[1]
            time.sleep(0.1)
        raise AssertionError(variable + " does not start")

    @classmethod
    def tearDownClass(cls):
        codes = []
        for process in reversed(cls.processes):
            process.send_signal(signal.SIGTERM)
            codes.append(process.wait(timeout=60))
        cls.folder.cleanup()
        assert codes == [0] * len(codes), codes

    def test_generate_gives_the_same_as_in_process(self):
        question = ["--output", "json", "--prompt", "What is 12 + 30?", "--chat", "--max-tokens", 48]
        here = self.json("generate", "--model", DEMO, *question)
        there = self.json("generate", "--server", self.gateway, *question)
        self.assertEqual(set(there), FIELDS)
        edited = ["--repetition-penalty", 1.2, "--presence-penalty", 0.4, "--frequency-penalty", 0.2, "--logit-bias",
                  f"{here['token_ids'][1]}:-2", "--ban", here["token_ids"][0], "--stop-ids", 9, "--min-tokens", 3,
                  "--logprobs", 2, "--temperature", 0.7, "--seed", 5]
        here_edited = self.json("generate", "--model", DEMO, *question, *edited)
        there_edited = self.json("generate", "--server", self.gateway, *question, *edited)
        for field in ("token_ids", "text", "finish_reason", "logprobs"):
            self.assertEqual(there_edited[field], here_edited[field], field)
        for field in ("model", "prompt_tokens", "token_ids", "text", "finish_reason", "matched_stop"):
            self.assertEqual(there[field], here[field], field)
        schema = pathlib.Path(self.folder.name) / "schema.json"
        schema.write_text('{"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}')
        question += ["--json-schema", schema, "--temperature", 0.9, "--seed", 8]
        here, there = (self.json("generate", *where, *question)
                       for where in (("--model", DEMO), ("--server", self.gateway)))
        self.assertEqual(there["token_ids"], here["token_ids"])
        self.assertTrue(2 <= len(json.loads(there["text"])) <= 4)

    def test_what_the_worker_packed_serves_others(self):
        done = self.ok("generate", "--model", DEMO, "--prompt", "x", "--max-tokens", 1, "--packed-weights", self.packed)
        self.assertIn(f" from {self.packed} in ", done.stderr)

    def test_eval_drafts_from_the_store(self):
        folder = pathlib.Path(self.folder.name)
        prompt = {"prompt": "Tell me about 17 apples."}
        data, known = folder / "prompts.jsonl", folder / "known.jsonl"
        data.write_text(json.dumps(prompt) + "\n")
        common = ["eval", "--model", DEMO, "--suite", "prompts", "--data", data, "--modes", "plain,merged:16", "--ignore-eos",
                  "--max-tokens", 48, "--threads", 1, "--output", "json"]
        first = self.json(*common)
        self.assertEqual(first["overall"]["merged:16"]["drafted_by_source"]["store"], 0)
        ids = ",".join(map(str, first["answers"][0]["token_ids"]))
        answer = self.json("detokenize", "--model", DEMO, "--no-specials", "--ids", ids)["text"]
        known.write_text(json.dumps(dict(prompt, response=answer)) + "\n")
        self.ok("ingest", "--server", self.retrieval, "--model", DEMO, known)
        second = self.json(*common, "--retrieval", self.retrieval)
        self.assertIs(second["lossless"], True)
        self.assertGreater(second["overall"]["merged:16"]["accepted_by_source"]["store"], 0)
        self.assertEqual(second["answers"][0]["token_ids"], first["answers"][0]["token_ids"])

    def test_chat_and_status(self):
        done = self.ok("chat", "--server", self.gateway, "--max-tokens", 16, "--show-drafts", stdin="hello\n/stats\n")
        self.assertIn("tokens per forward", done.stderr)
        status = self.ok("status", "--server", self.gateway).stdout
        for word in ("demo-model", self.worker, "ready", "streams open"):
            self.assertIn(word, status)

    def test_ingested_answers_become_drafts(self):
        question = ["--output", "json", "--prompt", "Once upon a time", "--max-tokens", 60, "--ignore-eos"]
        before = self.json("generate", "--model", DEMO, *question)
        text = self.json("detokenize", "--model", DEMO, "--ids", ",".join(map(str, before["token_ids"])))["text"]
        path = os.path.join(self.folder.name, "a.jsonl")
        pathlib.Path(path).write_text(json.dumps({"text": "Once upon a time" + text}) + "\n")
        self.assertRegex(self.ok("ingest", "--server", self.retrieval, "--model", DEMO, path).stdout, "^1 documents")
        self.assertRegex(self.ok("ingest", "--server", self.retrieval, "--model", DEMO, path).stdout, r"\(0 new\)")
        for _ in range(3):  # a lookup that comes too late serves nobody
            after = self.json("generate", "--server", self.gateway, "--nodes", 16, *question)
            self.assertEqual(after["token_ids"], before["token_ids"])
            if after["accepted_by_source"]["store"] > 0:
                return
        self.fail("the store drafted nothing")

    def test_errors_keep_their_reasons(self):
        self.fails(1, "CONTEXT_TOO_LONG", "generate", "--server", self.gateway, "--prompt", "x", "--max-tokens", 100000)
        self.fails(1, "MODEL_NOT_FOUND", "generate", "--server", self.gateway, "--model-name", "nope", "--prompt", "x")


if __name__ == "__main__":
    unittest.main(verbosity=2)
