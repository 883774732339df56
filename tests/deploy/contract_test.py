"""Rules, dashboards and autoscalers against what the servers really tell.

A real cluster answers, a real Prometheus scrapes it: every selector must find series, every label that is grouped by must be
on them, and every expression, the comparisons of alerts apart, must give something. Then faults are put in, and the alerts
for them must fire."""
import json
import pathlib
import re
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

import tools
try:
    import yaml
    import prometheus
except ImportError as missing:
    tools.skip(f"{missing}; install python3-yaml")
if prometheus.BINARY is None:
    tools.skip("there is no prometheus; install Debian's package")

import chart
import promql
from client import Client, QUESTIONS, Stream
from cluster import ROOT, ClusterTest, wait_until

MODEL = "demo"


def rules():
    """Of each rule, its name and expression."""
    for path in prometheus.RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule.get("record") or rule["alert"], rule["expr"]


def panels():
    """Of each panel of a dashboard, its title and expressions with Grafana's variables filled in."""
    filled = {"$__rate_interval": "1m", "$namespace": ".*", "$model": ".*"}
    for path in sorted((ROOT / "deploy/grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"]
                for name, value in filled.items():
                    expression = expression.replace(name, value)
                yield f"{path.name}: {panel['title']}", expression


def scaling():
    """What autoscalers ask, of every value set; nothing without helm."""
    if not tools.complete():
        print("skipped: the queries of autoscalers, for want of helm")
        return
    for name in chart.SETS:
        for found in chart.objects(name, "ScaledObject"):
            for trigger in found["spec"]["triggers"]:
                yield found["metadata"]["name"], trigger["metadata"]["query"]
        for found in chart.objects(name, "HorizontalPodAutoscaler"):
            for metric in found["spec"]["metrics"]:
                yield found["metadata"]["name"], metric["pods"]["metric"]["name"]


class ContractTest(ClusterTest):
    worker_flags = (*ClusterTest.worker_flags, "--name", MODEL)
    gateway_flags = ("--failover-wait", "0.2")
    follower = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.prometheus = prometheus.Prometheus(cls.cluster.folder, cls.cluster.servers, chart.NAMESPACE)
        cls.addClassCleanup(cls.prometheus.stop)
        cls.stopping = threading.Event()
        loads = [threading.Thread(target=cls.load, args=(question,), daemon=True) for question in QUESTIONS[:2]]
        for load in loads:
            load.start()
            cls.addClassCleanup(load.join)
        cls.addClassCleanup(cls.stopping.set)

    @classmethod
    def load(cls, question):
        """Asks again and again, whatever comes of it."""
        client = Client(cls.cluster.gateway)
        while not cls.stopping.wait(0.05):
            try:
                client.ask([("user", question)], max_tokens=120, ignore_eos=True)
            except Exception:  # faults are put in on purpose
                pass

    def problem(self, expression):
        """What is wrong with it; None if nothing is."""
        labels = set()
        for selector in promql.selectors(expression):
            series = self.prometheus.get("series", **{"match[]": selector})
            if not series:
                return f"{selector} finds nothing"
            labels.update(*series)
        if missing := promql.grouping_labels(expression) - labels:
            return f"nothing there has the label {', '.join(missing)}"
        for operand in promql.operands(expression):
            if not self.prometheus.query(operand):
                return f"{operand} gives nothing"
        return None

    def test_1_everything_asked_for_is_there(self):
        asked = [*rules(), *panels(), *scaling()]
        self.assertGreater(len(asked), 80)
        for name, expression in asked:
            # Windows have to fill first.
            wait_until(lambda: self.problem(expression) is None, f"{name}: {self.problem(expression)}", seconds=30)

    def test_1_hedges_are_counted_from_the_start(self):
        """Of each outcome there is a series before anything happened: else the first one would be no increase."""
        outcomes = {series["outcome"] for series in
                    self.prometheus.get("series", **{"match[]": "clamor_worker_retrieval_hedges_total"})}
        self.assertEqual(outcomes, {"slow_won", "slow_lost", "failed_won", "failed_lost"})

    def test_2_a_broken_name_is_found(self):
        for name, expression in [*rules(), *panels()]:
            for selector in set(promql.selectors(expression)):
                metric = re.match(r"[\w:]+", selector)[0]
                self.assertIn("finds nothing", self.problem(re.sub(rf"\b{metric}\b", metric + "_gone", expression)) or "", name)
        self.assertIn("outcom", self.problem('sum(rate(clamor_gateway_requests_total{outcom="ok"}[1m]))'))
        self.assertIn("modell", self.problem("sum by (modell) (clamor_requests_running)"))

    def test_3_nothing_fires_in_health(self):
        allowed = {"ClamorSpeculationNotPaying"} | {f"Clamor{which}TokenBurn{how}" for which in ("First", "Next")
                                                    for how in ("Fast", "Slow")}  # of a busy machine
        self.assertLessEqual(self.prometheus.firing(), allowed)

    def test_4_alerts_fire_under_faults(self):
        self.cluster.retrieval.kill()
        hedges = 'clamor_worker_retrieval_hedges_total{outcome="failed_won"}'
        wait_until(lambda: any(float(sample["value"][1]) > 0 for sample in self.prometheus.query(hedges)),
                   "the follower answers for a dead store")
        self.cluster.follower.kill()
        wait_until(lambda: "ClamorRetrievalSlow" in self.prometheus.firing(), "a store dead like its follower fires", seconds=120)
        under_way = [Stream(Client(self.cluster.gateway).start(QUESTIONS[0], max_tokens=800, ignore_eos=True, nodes=0))
                     for _ in range(4)]
        wait_until(lambda: all(stream.tokens > 0 for stream in under_way), "streams are under way")
        self.cluster.worker.kill()
        # In any order: they are told apart by how long each waits.
        seen = set()
        def fired():
            seen.update(self.prometheus.firing())
            return {"ClamorStreamsBroken", "ClamorNoWorker", "ClamorWorkerDown"} <= seen
        wait_until(fired, "a dead worker fires", seconds=120)


class ExpressionTest(unittest.TestCase):
    """What the checks above rest on."""

    def test_selectors(self):
        self.assertEqual(promql.selectors('sum by (a) (rate(m_total{x="}", y=~"b|c"}[5m])) / on (a) n:o:p > 2 and q offset 5m'),
                         ['m_total{x="}",y=~"b|c"}', "n:o:p", "q"])
        self.assertEqual(promql.selectors("time() - last > 60"), ["last"])

    def test_grouping_labels(self):
        self.assertEqual(promql.grouping_labels("sum by (le, a) (m) / on (b) group_left (c) n"), {"le", "a", "b", "c"})

    def test_operands(self):
        self.assertEqual(promql.operands("(a - b > 60) and c > 2"), ["a - b", "60", "c", "2"])
        self.assertEqual(promql.operands("sum(a) / (b > 0)"), ["sum(a) / (b > 0)"])

    def test_hurry(self):
        self.assertEqual(prometheus.hurry("- record: x:rate5m\n  expr: rate(m[5m])\n  for: 1h"),
                         "- record: x:rate5m\n  expr: rate(m[15s])\n  for: 180s")


if __name__ == "__main__":
    unittest.main(verbosity=2)
