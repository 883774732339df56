"""The `clamor` command against a running cluster: what it prints, how it fails, and the same ids however it drafts."""
import json
import pathlib
import subprocess

import client
from client import Client, QUESTIONS
from cluster import BIN_DIR, DEMO_MODEL, SECONDS, ClusterTest, main


def clamor(*arguments, seconds=SECONDS, stdin=""):
    command = [BIN_DIR / "clamor", *(str(argument) for argument in arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)


class CommandTest(ClusterTest):

    def run_ok(self, *arguments):
        done = clamor(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def generate(self, *arguments):
        """The JSON that `clamor generate` prints."""
        done = self.run_ok("generate", "--server", self.cluster.gateway.address, "--output", "json", *arguments)
        self.assertEqual(done.stderr, "")
        return json.loads(done.stdout)

    def assert_fails(self, status, words, *arguments):
        done = clamor(*arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        for word in ("clamor: ", *words):
            self.assertIn(word, done.stderr)

    def test_generate(self):
        asked = ["--chat", "--prompt", QUESTIONS[0], "--max-tokens", 80]
        plain = self.generate(*asked, "--nodes", 0)
        self.assertEqual((plain["tokens_per_forward"], plain["draft_nodes"]), (1, 0))
        self.assertEqual(plain["prompt_tokens"], len(Client(self.cluster.gateway).tokenize([("user", QUESTIONS[0])])))
        self.assertEqual(plain["token_ids"], Client(self.cluster.gateway).ask([("user", QUESTIONS[0])], max_tokens=80).ids)
        for drafts in (["--nodes", "auto"], ["--tree", "published"], ["--nodes", 32]):
            drafted = self.generate(*asked, *drafts)
            self.assertEqual((drafted["token_ids"], drafted["text"]), (plain["token_ids"], plain["text"]))
            print(f"{' '.join(map(str, drafts))}: {drafted['tokens_per_forward']:.2f} tokens per forward")
        in_process = self.run_ok("generate", "--model", DEMO_MODEL, "--output", "json", *asked)
        self.assertEqual(json.loads(in_process.stdout)["token_ids"], plain["token_ids"])
        text = self.run_ok("generate", "--server", self.cluster.gateway.address, *asked)
        self.assertEqual(text.stdout, plain["text"] + "\n")
        self.assertIn("tokens per forward", text.stderr)

    def test_drafts_are_shown(self):
        green, plain = "\x1b[32m", "\x1b[0m"
        asked = ["--server", self.cluster.gateway.address, "--max-tokens", 80, "--nodes", 16, "--show-drafts"]
        expected = self.generate("--chat", "--prompt", QUESTIONS[0], "--max-tokens", 80)["text"] + "\n"
        shown = {"generate": self.run_ok("generate", *asked, "--chat", "--prompt", QUESTIONS[0]).stdout}
        shown["chat"] = clamor("chat", *asked, stdin=QUESTIONS[0] + "\n").stdout
        for verb, text in shown.items():
            with self.subTest(verb=verb):
                self.assertEqual(text.replace(green, "").replace(plain, ""), expected)
                self.assertGreater(text.count(green), 3)
                self.assertNotIn(plain + green, text, "a forward ends with a token of the model's own, which is not green")
        self.assertNotIn(green, self.run_ok("generate", *asked[:-3], "--nodes", 0, "--show-drafts", "--chat", "--prompt", QUESTIONS[0]).stdout)
        self.assert_fails(2, ["--show-drafts", "--output"], "generate", *asked, "--prompt", "x", "--output", "json")

    def test_generate_sampled_from_ids(self):
        asked = ["--ids", "5,6,7,8", "--max-tokens", 40, "--temperature", 0.9, "--seed", 11]
        plain = self.generate(*asked, "--nodes", 0)
        self.assertEqual(plain["seed"], 11)
        self.assertEqual(self.generate(*asked)["token_ids"], plain["token_ids"])

    def test_checkpoint(self):
        server = ["--server", self.cluster.retrieval.address]
        folder = pathlib.Path(self.run_ok("checkpoint", *server, "--name", "monday").stdout.strip())
        self.assertEqual(folder.name, "monday")
        self.assertTrue(any(folder.iterdir()), "the copy is empty")
        self.assert_fails(1, ["monday"], "checkpoint", *server, "--name", "monday")
        self.assert_fails(1, ["name"], "checkpoint", *server, "--name", "../up")
        self.assertNotEqual(self.run_ok("checkpoint", *server).stdout, "")

    def test_status(self):
        done = self.run_ok("status", "--server", self.cluster.gateway.address)
        for word in ("demo-model", self.cluster.worker.address, "ready", "1024"):
            self.assertIn(word, done.stdout)

    def test_ingest(self):
        documents = self.cluster.folder / "documents.jsonl"
        answer = "The forty quick foxes sold exactly nine hundred and eleven turnips to Mr. Przybylski on Tuesday."
        with documents.open("w") as file:
            for line in ({"text": "some words"}, {"prompt": "Who sold what?", "response": answer},
                         {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}):
                file.write(json.dumps(line) + "\n")
        ingest = ["ingest", "--server", self.cluster.retrieval.address, "--model", DEMO_MODEL, "--tenant", "reader", documents]
        self.assertIn("3 documents (3 new)", self.run_ok(*ingest).stdout)
        self.assertIn("3 documents (0 new)", self.run_ok(*ingest).stdout)
        store = client.retrieval_grpc.RetrievalServiceStub(client.connect(self.cluster.retrieval))
        self.assertEqual(store.GetStats(client.retrieval.GetStatsRequest(tenant="reader"), timeout=10).documents, 3)

    def test_failures(self):
        gateway, prompt = self.cluster.gateway.address, ["--prompt", "x"]
        nobody = "127.0.0.1:1"
        for status, words, *arguments in (
                (2, ["--nodes", "129", "128"], "generate", "--server", gateway, *prompt, "--nodes", 129),
                (2, ["--temperature"], "generate", "--server", gateway, *prompt, "--temperature", -1),
                (2, ["--server", "--model"], "generate", "--server", gateway, "--model", DEMO_MODEL, *prompt),
                (2, ["prompt"], "generate", "--server", gateway),
                (2, ["--server"], "status"),
                (1, ["--server", nobody, "UNAVAILABLE"], "generate", "--server", nobody, *prompt),
                (1, ["--server", "UNAVAILABLE"], "status", "--server", nobody),
                (1, ["CONTEXT_TOO_LONG", "5000", "1024"], "generate", "--server", gateway, *prompt, "--max-tokens", 5000),
                (1, ["MODEL_NOT_FOUND", "gpt"], "generate", "--server", gateway, *prompt, "--model-name", "gpt"),
                (1, ["INVALID_ARGUMENT", "4096"], "generate", "--server", gateway, "--ids", "4096"),
                (1, ["no-such-file"], "ingest", "--server", self.cluster.retrieval.address, "--model", DEMO_MODEL,
                 self.cluster.folder / "no-such-file")):
            with self.subTest(arguments=arguments):
                self.assert_fails(status, words, *arguments)


if __name__ == "__main__":
    main()
