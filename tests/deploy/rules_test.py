"""The alerting rules: promtool runs rules/*_test.yaml; here is seen that they leave none out, and that each has a runbook."""
import pathlib
import re
import shutil
import subprocess
import unittest

import tools
try:
    import yaml
except ImportError as missing:
    tools.skip(f"{missing}; install python3-yaml")
if shutil.which("promtool") is None:
    tools.skip("there is no promtool; install Debian's package prometheus")

HERE = pathlib.Path(__file__).resolve().parent
DEPLOY = HERE.parents[1] / "deploy"
TESTS = sorted((HERE / "rules").glob("*_test.yaml"))


def alerts():
    return [rule for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
            for rule in group["rules"]]


def scenarios():
    """Of each, its name and the alerts that must fire at some time of it; nothing else may."""
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            expectations = test["promql_expr_test"]
            assert all(one["expr"] == 'sum by (alertname) (ALERTS{alertstate="firing"})' for one in expectations), test["name"]
            fire = {name for one in expectations for sample in one["exp_samples"]
                    for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
            yield test["name"], fire


class RulesTest(unittest.TestCase):

    def promtool(self, *arguments):
        done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_promtool(self):
        self.promtool("check", "rules", DEPLOY / "prometheus/recording.yaml", DEPLOY / "prometheus/alerts.yaml")
        self.promtool("test", "rules", *TESTS)

    def test_each_alert_fires_and_stays_silent(self):
        fire, silent = set(), set()
        for name, fired in scenarios():
            fire |= fired
            silent |= {one for one in re.findall(r"Clamor\w+", name) if one not in fired}
            self.assertLessEqual(fired, set(re.findall(r"Clamor\w+", name)), "a name says what fires")
        self.assertEqual(fire, {rule["alert"] for rule in alerts()})
        self.assertEqual(silent, fire)

    def test_each_alert_has_a_runbook(self):
        headings = {re.sub(r"[^a-z0-9]", "", line.lower()) for line in (DEPLOY / "OPERATIONS.md").read_text().splitlines()
                    if line.startswith("#")}
        for rule in alerts():
            page, _, anchor = rule["annotations"]["runbook"].partition("#")
            self.assertEqual(page, "deploy/OPERATIONS.md")
            self.assertIn(anchor, headings, rule["alert"])
            self.assertIn(rule["labels"]["severity"], ("page", "ticket"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
