"""`clamor train` as a user meets it: what a run leaves, killed and interrupted runs, bad data, wrong flags, a full disk."""
import itertools
import json
import os
import pathlib
import pty
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CLAMOR = os.environ["CLAMOR"]
DATA = ROOT / "tests/testdata"
TINY = DATA / "tiny-qwen2"
STEPS = int(os.environ.get("CLAMOR_TEST_STEPS", 40))  # of a run; fewer where each is slow
FIELDS = {
    "start": {"event", "step", "time", "options", "model", "data", "machine"},
    "step": {"event", "step", "epoch", "loss", "gradient_norm", "learning_rate", "tokens", "tokens_per_second", "seconds"},
    "evaluation": {"event", "step", "heldout_loss", "tokens_per_forward", "samples"},
    "checkpoint": {"event", "step"},
    "end": {"event", "step", "reason", "tokens", "seconds", "peak_memory_bytes"},
}


def conversations():
    for line in (DATA / "gsm8k/test-40.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}


def write_lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def command(*arguments):
    return [CLAMOR, *map(str, arguments)]


def run(*arguments, target=None, **keywords):
    environment = dict(os.environ, **({"CLAMOR_CPU_TARGET": target} if target else {}))
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, env=environment, **keywords)


def supported_targets():
    return run("score", "--model", TINY, "--ids", "1", target="none").stderr.split("supports: ")[1].strip().split(", ")


def limit_file_size(size):
    def apply():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with EFBIG, as one to a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return apply


def events(output):
    """training.jsonl, as far as it is written."""
    try:
        text = (output / "training.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def of_kind(output, kind):
    return [event for event in events(output) if event["event"] == kind]


def steps_done(output):
    return max((event["step"] for event in of_kind(output, "step")), default=0)


def weights(output):
    return (output / "model.safetensors").read_bytes()


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TrainTest(unittest.TestCase):
    numbers = itertools.count()

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        rows = list(conversations())
        cls.data = write_lines(cls.folder / "data.jsonl", rows[:36])
        cls.holdout = write_lines(cls.folder / "holdout.jsonl", rows[36:])

    def output(self):
        """A folder that is not there yet."""
        return self.folder / f"run-{next(self.numbers)}"

    @classmethod
    def flags(cls, output, *more, source=("--model", TINY)):
        """A run of some seconds; `more` replaces flags or adds some."""
        common = {"--data": cls.data, "--holdout": cls.holdout, "--output": output, "--max-steps": STEPS,
                  "--batch-tokens": 500, "--lr": 0.005, "--warmup": 2, "--checkpoint-every": 4,
                  "--evaluate-every": STEPS // 2, "--evaluate-prompts": 1, "--evaluate-tokens": 8, "--evaluate-nodes": "8,published", "--threads": 1}
        return ["train", *source, *(word for flag, value in common.items() if flag not in more for word in (flag, value)),
                *more]

    def ok(self, *arguments, **keywords):
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotRegex(done.stdout + done.stderr, r"[^\n -~]", "not a terminal")
        return done

    def fails(self, code, pattern, *arguments, **keywords):
        """The last line says why; what comes before it, if anything, is about the data."""
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertNotRegex(done.stderr, r"[^\n -~]")
        *before, last = done.stderr.splitlines()
        self.assertRegex(last, r"^clamor: .*(" + pattern + ")")
        for line in before:
            self.assertNotRegex(line, "^clamor: ")
        return done

    def same_run(self, output, reference):
        """Two runs that were the same, however often one was stopped."""
        self.assertEqual(weights(output), weights(reference))
        steps, expected = of_kind(output, "step"), of_kind(reference, "step")
        self.assertEqual([step["step"] for step in steps], [step["step"] for step in expected])
        for step, other in zip(steps, expected):
            self.assertEqual(step["gradient_norm"], other["gradient_norm"])
            self.assertAlmostEqual(step["loss"], other["loss"], places=9)  # a sum over what is held in memory at once
        self.assertEqual([path for path in snapshot(output) if path.endswith((".partial", ".tmp"))], [])

    def start_until(self, arguments, output, step):
        """A process that has logged `step`."""
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while steps_done(output) < step and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return process


class Results(TrainTest):
    def check_directory(self, output):
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                     "generation_config.json", "model.safetensors", "training.jsonl", "report.html"):
            self.assertTrue((output / name).is_file(), name)
        score = json.loads(self.ok("score", "--model", output, "--ids", "5,6,7,8").stdout)
        self.assertEqual(len(score["logprobs"]), 4)
        generate = ["generate", "--model", output, "--ids", "5,6,7,5,6,7,5,6", "--max-tokens", 24, "--ignore-eos",
                    "--output", "json"]
        plain = json.loads(self.ok(*generate, "--nodes", 0).stdout)["token_ids"]
        self.assertEqual(len(plain), 24)
        for drafts in (["--nodes", 16], ["--tree", "published"]):
            self.assertEqual(json.loads(self.ok(*generate, *drafts).stdout)["token_ids"], plain)

    def check_log(self, output):
        log = events(output)
        for event in log:
            self.assertEqual(set(event), FIELDS[event["event"]])
        self.assertEqual(log[0]["event"], "start")
        self.assertEqual(log[0]["options"]["lr"], 0.005)
        self.assertEqual(log[0]["data"]["samples"], 36)
        self.assertEqual((log[-1]["event"], log[-1]["step"], log[-1]["reason"]), ("end", STEPS, "done"))
        self.assertEqual([event["step"] for event in of_kind(output, "step")], list(range(1, STEPS + 1)))
        self.assertEqual([event["step"] for event in of_kind(output, "checkpoint")], list(range(4, STEPS + 1, 4)))
        evaluations = of_kind(output, "evaluation")
        self.assertEqual([event["step"] for event in evaluations if event["step"] > 0], [STEPS // 2, STEPS])
        self.assertLess(evaluations[-1]["heldout_loss"], evaluations[0]["heldout_loss"] - 0.1, "it learns")
        for evaluation in evaluations:
            self.assertEqual(set(evaluation["tokens_per_forward"]), {"8", "published"})
            self.assertTrue(all(speed >= 1 for speed in evaluation["tokens_per_forward"].values()))
            self.assertEqual(len(evaluation["samples"]), 1)
        # The data is read once an epoch.
        last = of_kind(output, "step")[-1]
        self.assertAlmostEqual(last["epoch"], last["tokens"] / log[0]["data"]["tokens"])
        self.assertLess(last["epoch"], 2.5)

    def check_report(self, output, name):
        report = (output / "report.html").read_text()
        self.assertIn(name, report)
        self.assertNotRegex(report, r"https?://")
        self.assertNotRegex(report, r"(?i)\b(src|href)\s*=\s*[\"']?[^\"'#>\s]")
        self.assertNotRegex(report, r"(?i)@import|url\(")

    def test_from_a_model(self):
        output = self.output()
        done = self.ok(*self.flags(output))
        self.assertIn("--data: 36 samples, ", done.stderr)
        self.assertRegex(done.stderr, rf"(?m)^{STEPS}/{STEPS}  loss [\d.]+  \d+ tokens/s")
        self.assertRegex(done.stderr, rf"(?m)^wrote {output}: held-out loss [\d.]+, tokens per forward .*published: ")
        self.check_directory(output)
        self.check_log(output)
        self.assertEqual(of_kind(output, "evaluation")[0]["step"], 0)
        self.check_report(output, "tiny-qwen2")
        self.assertNotEqual(weights(output), (TINY / "model.safetensors").read_bytes())
        self.assertEqual((output / "tokenizer.json").read_bytes(), (TINY / "tokenizer.json").read_bytes())

    def test_from_nothing(self):
        output = self.output()
        self.ok(*self.flags(output, source=("--config", TINY / "config.json", "--tokenizer", TINY / "tokenizer.json")))
        self.check_directory(output)
        self.check_log(output)
        self.check_report(output, output.name)
        self.assertTrue(events(output)[0]["model"]["from_scratch"])

    def test_a_model_with_fewer_tokens_than_its_tokenizer(self):
        output = self.output()
        few = write_lines(self.folder / "few.jsonl", [{"text": "q7q8q9q1z2z3z5" * 5}] * 4)
        self.ok("train", "--config", DATA / "training/model/config.json", "--tokenizer", TINY / "tokenizer.json", "--data",
                few, "--output", output, "--noise", "uniform", "--noise-length", 20, "--epochs", 20, "--batch-tokens", 128)
        self.assertLess(of_kind(output, "step")[-1]["loss"], of_kind(output, "step")[0]["loss"])

    def test_without_held_out_data(self):
        output = self.output()
        done = self.ok("train", "--model", TINY, "--data", self.data, "--output", output, "--max-steps", 1)
        self.assertTrue(done.stderr.endswith(f"wrote {output}\n"), done.stderr)
        self.assertIsNone(of_kind(output, "evaluation")[-1]["heldout_loss"])

    def test_the_last_samples_are_held_out(self):
        output = self.output()
        done = self.ok("train", "--model", TINY, "--data", self.data, self.data, "--output", output, "--max-steps", 1,
                       "--evaluate-prompts", 0)
        self.assertIn("the last 1 samples of --data are held out", done.stderr)
        self.assertEqual(events(output)[0]["data"]["samples"], 71)
        self.assertEqual(events(output)[0]["data"]["heldout_samples"], 1)
        self.assertIsNotNone(of_kind(output, "evaluation")[-1]["heldout_loss"])

    def test_a_loss_that_is_lost(self):
        output = self.output()
        self.fails(1, r"step \d+: the loss is .*, the gradient norm (nan|inf); begin anew with a smaller --lr",
                   *self.flags(output, "--lr", 10, "--warmup", 0, "--clip-norm", 0, "--weight-decay", 10, "--beta1", 0,
                               "--beta2", 0, source=("--config", TINY / "config.json", "--tokenizer", TINY / "tokenizer.json")))
        self.assertTrue((output / "report.html").exists())
        self.assertEqual(of_kind(output, "end"), [])

    def test_a_bar_on_a_terminal(self):
        master, slave = pty.openpty()
        process = subprocess.Popen(command(*self.flags(self.output())), stdout=slave, stderr=slave)
        os.close(slave)
        shown = b""
        while select.select([master], [], [], 60)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed
                break
        os.close(master)
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertRegex(shown, rb"\r\[=+ *\] \d+/\d+  loss ")


class SameBytes(TrainTest):
    """A run ends with the same bytes, however it was computed and however often it was stopped."""

    LORA = ["--lora-rank", 4, "--noise", "jacobi", "--noise-segments", 2]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.full, cls.lora = cls.folder / "full", cls.folder / "lora"
        for output, more in ((cls.full, []), (cls.lora, cls.LORA)):
            done = run(*cls.flags(output, *more))
            assert done.returncode == 0, done.stderr

    def test_however_it_is_computed(self):
        short = ["--max-steps", 3, "--evaluate-prompts", 0]  # portable kernels are slow
        for more in ([], self.LORA):
            reference = self.output()
            self.ok(*self.flags(reference, *short, *more))
            variants = [(["--micro-tokens", 2, "--recompute", "on"], None), (["--micro-tokens", 200, "--threads", 2], None)]
            variants += [([], target) for target in supported_targets()]
            for variant, target in variants:
                with self.subTest(more=more, variant=variant, target=target):
                    output = self.output()
                    self.ok(*self.flags(output, *short, *more, *variant), target=target)
                    self.same_run(output, reference)

    def test_killed_five_times(self):
        self.assertNotEqual(weights(self.full), weights(self.lora))
        for reference, more in ((self.full, []), (self.lora, self.LORA)):
            draw = random.Random(7)
            output = self.output()
            flags = self.flags(output, *more, "--checkpoint-every", 1)
            for attempt in range(5):
                resume = ["--resume"] if attempt > 0 else []
                process = self.start_until(flags + resume, output, steps_done(output) + draw.randint(1, 2))
                time.sleep(draw.uniform(0, 0.02))
                self.assertIsNone(process.poll(), "still at work")
                process.kill()
                process.communicate(timeout=60)
                self.assertEqual(process.returncode, -signal.SIGKILL)
            done = self.ok(*flags, "--resume")
            self.assertRegex(done.stderr, rf"resuming after step \d+ of {STEPS}")
            self.same_run(output, reference)

    def test_killed_before_the_first_checkpoint(self):
        output = self.output()
        process = self.start_until(self.flags(output, "--checkpoint-every", 1000), output, 2)
        process.kill()
        process.communicate(timeout=60)
        done = self.ok(*self.flags(output, "--resume"))
        self.assertIn("no checkpoint yet: starting from the beginning", done.stderr)
        self.same_run(output, self.full)

    def test_interrupted(self):
        output = self.output()
        process = self.start_until(self.flags(output), output, 2)
        process.send_signal(signal.SIGINT)
        seen = steps_done(output)
        _, stderr = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        said = re.fullmatch(rf"clamor: interrupted after step (\d+) of {STEPS}; the same command with --resume goes on",
                            stderr.splitlines()[-1])
        self.assertTrue(said, stderr)
        self.assertLessEqual(int(said[1]), seen + 2)
        self.assertEqual(of_kind(output, "end")[-1]["reason"], "interrupted")
        self.assertIn(f"checkpoint-{said[1]}.safetensors", os.listdir(output / "checkpoints"))
        self.fails(1, f"--output {output} is not empty; --resume goes on", *self.flags(output))
        done = self.ok(*self.flags(output, "--resume"))
        self.assertIn(f"resuming after step {said[1]} of {STEPS}", done.stderr)
        self.same_run(output, self.full)
        self.assertEqual([event["reason"] for event in of_kind(output, "end")], ["done"])

    def test_a_damaged_checkpoint_is_passed_over(self):
        output = self.output()
        shutil.copytree(self.full, output)
        (output / f"checkpoints/checkpoint-{STEPS}.safetensors").write_bytes(b"x" * 100)
        log = [json.dumps(event) for event in events(output) if event["event"] != "end"]
        write_lines(output / "training.jsonl", log)  # as if it had been killed at the end
        done = self.ok(*self.flags(output, "--resume"))
        self.assertRegex(done.stderr, rf"checkpoint-{STEPS}\.safetensors: ")
        self.assertIn(f"resuming after step {STEPS - 4} of {STEPS}", done.stderr)
        self.same_run(output, self.full)

    def test_a_run_is_resumed_as_it_began(self):
        other = write_lines(self.folder / "other.jsonl", list(conversations())[:35])
        before = snapshot(self.full)
        for more, pattern in {
                ("--lr", 0.004): r"--resume: the run in .* began otherwise: lr is 0\.004, was 0\.005",
                ("--batch-tokens", 501): "batch-tokens is 501, was 500",
                ("--batches", "by-length"): 'batches is "by-length", was "mixed"',
                ("--seed", 2): "seed is 2, was 1",
                ("--noise", "none"): 'noise is "none", was "ahead"',
                ("--lora-rank", 2): "lora-alpha is 4.0, was 0.0; lora-rank is 2, was 0",
                ("--dtype", "fp32"): 'dtype is "fp32", was "stored"',
                ("--max-steps", STEPS + 1): f"max-steps is {STEPS + 1}, was {STEPS}",
        }.items():
            self.fails(1, pattern, *self.flags(self.full, *more, "--resume"))
        self.fails(1, 'data is "[0-9a-f]+", was "[0-9a-f]+"', *self.flags(self.full, "--data", other, "--resume"))
        self.fails(1, 'model is "[0-9a-f]+", was "[0-9a-f]+"',
                   *self.flags(self.full, "--resume", source=("--config", TINY / "config.json", "--tokenizer",
                                                              TINY / "tokenizer.json")))
        self.fails(1, "is not empty; --resume goes on", *self.flags(self.full))
        after = snapshot(self.full)
        self.assertEqual({path: after[path] for path in before}, before)

    def test_a_finished_run_is_left_alone(self):
        before = snapshot(self.full)
        done = self.ok(*self.flags(self.full, "--resume"))
        self.assertIn("nothing is left to do", done.stderr)
        after = snapshot(self.full)
        self.assertEqual({path: after[path] for path in before}, before)


class Folder(TrainTest):
    def test_other_files_are_not_written_over(self):
        output = self.output()
        shutil.copytree(TINY, output)
        before = snapshot(output)
        for resume in ([], ["--resume"]):
            self.fails(1, "--output .* it holds no run, so choose another", *self.flags(output, *resume))
        self.assertEqual(snapshot(output), before)
        file = self.output()
        file.write_text("x")
        self.fails(1, "--output", *self.flags(file))
        self.fails(1, f"--output {file}/x: cannot create", *self.flags(file / "x"))
        self.assertEqual(file.read_text(), "x")

    def test_a_refused_run_can_be_begun_again(self):
        output = self.output()
        empty = write_lines(self.folder / "empty.jsonl", [])
        source = ("--config", TINY / "config.json", "--tokenizer", TINY / "tokenizer.json")
        self.fails(1, "empty.jsonl", *self.flags(output, "--data", empty, source=source))
        self.ok(*self.flags(output, source=source))

    def test_one_process_at_a_time(self):
        output = self.output()
        process = self.start_until(self.flags(output, "--max-steps", 10000, "--epochs", 1000), output, 1)
        self.fails(1, "another process is training in it", *self.flags(output, "--resume"))
        process.kill()
        process.communicate(timeout=60)


class Data(TrainTest):
    """On tiny-mistral, whose template refuses what does not alternate."""

    GOOD = {"prompt": "What is two and two?", "response": "Two and two are four, I think."}
    BAD = {  # what is wrong: line, and the message behind "file:line: "
        "invalid JSON": ('{"prompt": "x", ', "offset 17: not valid JSON"),
        "field": ({"prompt": "x"}, "field 'response' is missing"),
        "too long": ({"text": "many words " * 200}, r"\d+ tokens, limit is 128"),
        "role": ({"messages": [{"role": "\x1b[31m", "content": "x"}]}, r'role is "\\u001b\[31m", must be system, '),
        "template": ({"messages": [{"role": role, "content": "x"} for role in ("user", "user", "assistant")]}, "roles must alternate"),
        "no response": ({"messages": [{"role": "user", "content": "x"}]}, "no message has the role 'assistant'"),
        "invalid UTF-8": ('{"text": "\udcff"}', "not valid UTF-8 at byte 10"),
    }
    SHORT = {"prompt": "Yes?", "response": "y"}

    def train(self, *files, more=()):
        return ["train", "--model", DATA / "tiny-mistral", "--data", *files, "--output", self.output(), "--max-steps", 1,
                "--max-length", 128, *more]

    def write(self, name, rows):
        path = self.folder / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
        return path

    def test_refused(self):
        for kind, (line, message) in self.BAD.items():
            with self.subTest(kind):
                path = self.write("bad.jsonl", [self.GOOD, "", line, self.GOOD])
                self.fails(1, rf"bad\.jsonl:3: .*{message}", *self.train(path))
        path = self.write("short.jsonl", [self.GOOD, self.SHORT])
        self.fails(1, r"short\.jsonl:2: the longest response has \d tokens, noise needs 6", *self.train(path))
        self.ok(*self.train(path, more=("--noise", "none")))
        empty = self.write("empty.jsonl", [])
        self.fails(1, r"empty\.jsonl:1: the file is empty", *self.train(self.write("good.jsonl", [self.GOOD]), empty))

    def test_skipped(self):
        path = self.write("bad.jsonl", [self.GOOD, *(line for line, _ in self.BAD.values()), self.SHORT])
        empty = self.write("empty.jsonl", [])
        done = self.ok(*self.train(path, empty, more=("--on-bad-sample", "skip")))
        self.assertRegex(done.stderr, r"^--data: 2 samples, ")
        for kind in [*self.BAD, "empty file"]:
            self.assertIn(f"; skipped 1 ({kind})", done.stderr)
        self.assertIn("; too short for noise: 1\n", done.stderr)
        for number, (_, message) in enumerate(self.BAD.values()):
            self.assertRegex(done.stderr, rf"(?m)^  .*bad\.jsonl:{number + 2}: .*{message}")
        self.assertRegex(done.stderr, r"(?m)^  .*empty\.jsonl:1: the file is empty$")

    def test_nothing_usable(self):
        good = self.write("good.jsonl", [self.GOOD])
        skip = ("--on-bad-sample", "skip")
        self.fails(1, r"no samples in .*empty\.jsonl: .*the file is empty",
                   *self.train(self.write("empty.jsonl", []), more=skip))
        self.fails(1, r"no samples in .*bad\.jsonl: 1 bad lines; .*bad\.jsonl:1: ",
                   *self.train(self.write("bad.jsonl", ["{"]), more=skip))
        self.fails(1, r"/nowhere\.jsonl: cannot open", *self.train("/nowhere.jsonl", more=skip))
        self.fails(1, f"{self.folder}", *self.train(self.folder, more=skip))
        self.fails(1, r"/nowhere\.jsonl: cannot open", *self.train(good, more=("--holdout", "/nowhere.jsonl")))


class Flags(TrainTest):
    def test_help_is_grouped(self):
        text = self.ok("train", "--help").stdout
        for group in ("Model:", "Data:", "Noise:", "Training:", "Run:"):
            self.assertIn("\n" + group, text)
        self.assertIn("train", self.ok("--help").stdout)

    def test_wrong_usage(self):
        common = ["train", "--data", self.data, "--output", self.output()]
        fresh = ["--config", TINY / "config.json", "--tokenizer", TINY / "tokenizer.json"]
        for more, pattern in (
            (["train"], "--data|--output"),
            ([*common], "--model, or --config and --tokenizer, is required"),
            ([*common, "--config", "c.json"], "--config requires --tokenizer"),
            ([*common, "--tokenizer", "t.json"], "--tokenizer requires --config"),
            ([*common, *fresh, "--model", TINY], "--model"),
            ([*common, *fresh, "--lora-rank", 4], "--lora-rank needs --model"),
            ([*common, "--model", TINY, "--lora-alpha", 4], "--lora-alpha requires --lora-rank"),
        ):
            self.fails(2, pattern, *more)
        for flags, pattern in {
            ("--max-length", 513): "--max-length is 513, the model's context only 512",
            ("--max-length", 300, "--batch-tokens", 200): "--max-length is 300, --batch-tokens only 200",
            ("--noise", "loud"): "--noise: ",
            ("--noise-length", 0): "--noise-length is 0, must be from 1",
            ("--noise-segments", 99): "--noise-segments is 99, must be from 1",
            ("--loss", "none"): "--loss: ",
            ("--on-bad-sample", "ignore"): "--on-bad-sample: ",
            ("--epochs", 0): "--epochs is 0, must be",
            ("--max-steps", -1): "--max-steps is -1, must be",
            ("--lr", -1): "--lr is -1, must be",
            ("--lr", "nan"): "--lr is nan, must be",
            ("--lr", "fast"): "--lr",
            ("--min-lr", 2): "--min-lr is 2, must be",
            ("--warmup", -2): "--warmup is -2, must be",
            ("--batch-tokens", 1): "--batch-tokens is 1, must be",
            ("--micro-tokens", 0): "--micro-tokens is 0, must be",
            ("--weight-decay", -1): "--weight-decay is -1, must be",
            ("--clip-norm", -1): "--clip-norm is -1, must be",
            ("--beta1", 1): "--beta1 is 1, must be",
            ("--beta2", 1): "--beta2 is 1, must be",
            ("--lora-rank", 2000): "--lora-rank: ",
            ("--lora-rank", 2, "--lora-alpha", "nan"): "--lora-alpha",
            ("--checkpoint-every", -1): "--checkpoint-every: ",
            ("--evaluate-nodes", "8,oak"): "--evaluate-nodes has 'oak'",
            ("--evaluate-nodes", "129"): "--evaluate-nodes has '129'",
            ("--evaluate-tokens", 0): "--evaluate-tokens: ",
            ("--dtype", "fp8"): "--dtype: ",
            ("--recompute", "maybe"): "--recompute: ",
            ("--device", "tpu"): "--device: ",
            ("--device", "cuda", "--lora-rank", 2): "--lora-rank needs --device=cpu",
            ("--threads", -1): "--threads: ",
            ("--frob",): "--frob",
        }.items():
            with self.subTest(flags):
                self.fails(2, pattern, *common, "--model", TINY, *flags)

    def test_failures_name_the_file(self):
        common = ["train", "--data", self.data, "--output", self.output()]
        self.fails(1, "/nowhere", *common, "--model", "/nowhere")
        self.fails(1, "/nowhere/c", *common, "--config", "/nowhere/c", "--tokenizer", TINY / "tokenizer.json")
        self.fails(1, "/nowhere/t", *common, "--config", TINY / "config.json", "--tokenizer", "/nowhere/t")
        if not shutil.which("nvidia-smi"):
            self.fails(1, "--device cuda: ", *common, "--model", TINY, "--device", "cuda")
        torn = self.folder / "torn.json"
        torn.write_text("{")
        self.fails(1, "config.json", *common, "--config", torn, "--tokenizer", TINY / "tokenizer.json")
        self.fails(1, r"token \d+, but the model has vocab_size 160", *self.flags(
            self.output(), "--data", write_lines(self.folder / "short.jsonl", [{"text": "What is two and two?"}]),
            source=("--config", DATA / "training/model/config.json", "--tokenizer", TINY / "tokenizer.json")))


class Limits(TrainTest):
    def test_more_memory_than_there_is(self):
        config = json.loads((TINY / "config.json").read_text())
        config.update(hidden_size=8192, intermediate_size=28672, num_hidden_layers=64, num_attention_heads=64,
                      num_key_value_heads=8, layer_types=["full_attention"] * 64)
        path = self.folder / "huge.json"
        path.write_text(json.dumps(config))
        output = self.output()
        few = lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        limited = run("--version", preexec_fn=few).returncode == 0  # an address sanitizer cannot do with so little
        self.fails(1, r"training needs \d{4}\.\d GiB of memory, \d+\.\d GiB are free; a smaller --micro-tokens .* helps",
                   *self.flags(output, source=("--config", path, "--tokenizer", TINY / "tokenizer.json")),
                   preexec_fn=few if limited else None)
        self.assertFalse((output / "training.jsonl").exists())

    @unittest.skipIf(STEPS < 40, "a sanitizer's own memory is not in the estimate")
    def test_an_estimate_that_holds(self):
        """What was expected before, and what the process then had."""
        config = json.loads((TINY / "config.json").read_text())
        config.update(hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=4)
        path = self.folder / "middling.json"
        path.write_text(json.dumps(config))
        few = ("--max-steps", 2, "--batch-tokens", 2048)
        full, lora = self.output(), self.output()
        self.ok(*self.flags(full, *few, source=("--config", path, "--tokenizer", TINY / "tokenizer.json")))
        self.ok(*self.flags(lora, *few, "--lora-rank", 8, source=("--model", full)))
        for output in (full, lora):
            expected = events(output)[0]["machine"]["expected_memory_bytes"]
            peak = of_kind(output, "end")[0]["peak_memory_bytes"]
            self.assertLess(peak, 1.2 * expected + (32 << 20))
            self.assertGreater(peak, 0.5 * expected)

    def test_no_room_for_checkpoints(self):
        reference, output = self.output(), self.output()
        self.ok(*self.flags(reference))
        room = (reference / "model.safetensors").stat().st_size + (64 << 10)
        self.assertLess(room, (reference / f"checkpoints/checkpoint-{STEPS}.safetensors").stat().st_size)
        done = self.ok(*self.flags(output), preexec_fn=limit_file_size(room))
        for step in range(4, STEPS + 1, 4):
            self.assertEqual(len(re.findall(rf"(?m)^clamor: .*/checkpoint-{step}\.safetensors: cannot write: ", done.stderr)), 1)
        self.assertEqual(weights(output), weights(reference))
        self.assertEqual(of_kind(output, "checkpoint"), [])
        self.assertEqual([path for path in snapshot(output) if path.endswith(".partial")], [])

    def test_no_room_for_the_model(self):
        reference, output = self.output(), self.output()
        self.ok(*self.flags(reference))
        process = self.start_until(self.flags(output), output, 9)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        before = snapshot(output)
        done = run(*self.flags(output, "--resume"), preexec_fn=limit_file_size(64 << 10))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.splitlines()[-1], rf"^clamor: {output}/model\.safetensors: cannot write: ")
        after = snapshot(output)
        for path, content in before.items():
            if path.endswith(".safetensors") or path in ("config.json", "tokenizer.json"):
                self.assertEqual(after[path], content, path)
        self.ok(*self.flags(output, "--resume"))
        self.same_run(output, reference)


if __name__ == "__main__":
    unittest.main()
