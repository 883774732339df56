"""Manual pages and completion: every verb and flag that --help shows is in them, and who reads them has no complaint."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

CLAMOR = os.environ["CLAMOR"]
SERVERS = [os.environ[name] for name in ("CLAMOR_GATEWAY", "CLAMOR_WORKER", "CLAMOR_RETRIEVAL")]


def run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done


def flags_of(*command):
    """As its help has them."""
    return set(re.findall(r"^ +(?:-\w,)?(--[\w-]+)", run(*command, "--help").stdout, re.MULTILINE))


VERBS = re.findall(r"^  ([a-z]+) {2}", run(CLAMOR, "--help").stdout.split("Subcommands:")[1], re.MULTILINE)


class ManualTest(unittest.TestCase):

    def check(self, page, words):
        plain = re.sub(r"\\f[BIR]", "", page).replace("\\-", "-")
        for word in words:
            self.assertRegex(plain, rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        if shutil.which("groff"):
            read = subprocess.run(["groff", "-man", "-ww", "-Tascii", "-z"], input=page, capture_output=True, text=True)
            self.assertEqual((read.returncode, read.stderr), (0, ""))
        if shutil.which("man"):
            read = run("man", "-l", "-", stdin=page)
            self.assertEqual(read.stderr, "")
            for section in ("NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS"):
                self.assertIn(f"\n{section}\n", f"\n{re.sub('.' + chr(8), '', read.stdout)}")

    def test_of_each_verb(self):
        self.assertGreater(len(VERBS), 12)
        for verb in VERBS:
            with self.subTest(verb=verb):
                page = run(CLAMOR, "man", verb).stdout
                self.check(page, flags_of(CLAMOR, verb) | {f"clamor {verb}"})
                self.assertIn(".TH CLAMOR", page)

    def test_of_the_command(self):
        self.check(run(CLAMOR, "man").stdout, [*VERBS, *(f"clamor-{verb}" for verb in VERBS), "--version"])

    def test_of_each_server(self):
        for server in SERVERS:
            with self.subTest(server=server):
                self.check(run(server, "--man").stdout, flags_of(server) | {"CLAMOR_LISTEN"})

    def test_all_into_a_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            run(CLAMOR, "man", "--folder", folder)
            self.assertEqual({path.name for path in pathlib.Path(folder).iterdir()},
                             {"clamor.1", *(f"clamor-{verb}.1" for verb in VERBS)})
            self.assertEqual((pathlib.Path(folder) / "clamor-man.1").read_text(), run(CLAMOR, "man", "man").stdout)

    def test_failures(self):
        for status, word, arguments in ((2, "'frob'", ["frob"]), (1, "/nowhere", ["--folder", "/nowhere"])):
            done = subprocess.run([CLAMOR, "man", *arguments], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (status, ""))
            self.assertIn(word, done.stderr)


class CompletionTest(unittest.TestCase):

    def complete(self, *words):
        """What Tab after the last of them offers."""
        script = f"""source <({CLAMOR} completion bash)
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _clamor; printf '%s\\n' "${{COMPREPLY[@]}}" """
        return set(run("bash", "-c", script, "bash", *words).stdout.split())

    def test_bash_reads_it(self):
        self.assertEqual(run("bash", "-n", stdin=run(CLAMOR, "completion", "bash").stdout).stderr, "")

    def test_verbs_and_flags(self):
        self.assertEqual(self.complete("clamor", ""), {*VERBS, "--help", "--version"})
        self.assertEqual(self.complete("clamor", "ge"), {"generate"})
        for verb in VERBS:
            self.assertLessEqual(flags_of(CLAMOR, verb), self.complete("clamor", verb, "-"))
        self.assertEqual(self.complete("clamor", "generate", "--show"), {"--show-drafts"})
        self.assertEqual(self.complete("clamor", "score", "--prompt", "x", "--mod"), {"--model"})

    def test_values(self):
        self.assertEqual(self.complete("clamor", "generate", "--output", ""), {"text", "json"})
        self.assertEqual(self.complete("clamor", "generate", "--output", "=", "j"), {"json"})
        self.assertEqual(self.complete("clamor", "generate", "--output", "="), {"text", "json"})
        self.assertEqual(self.complete("clamor", "completion", ""), {"bash", "zsh"})
        self.assertEqual(self.complete("clamor", "generate", "--model", ""), set(), "files, by bash itself")

    @unittest.skipUnless(shutil.which("zsh"), "there is no zsh")
    def test_zsh_reads_it(self):
        script = f"source <({CLAMOR} completion zsh); print $_comps[clamor]"
        self.assertIn("bash_complete", run("zsh", "-f", "-c", script).stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
