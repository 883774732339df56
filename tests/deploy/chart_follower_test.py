"""What the Helm chart makes of retrieval.follower: who leads, who may call whom, and what changes when the two change parts."""
import unittest

import tools

tools.enter()

from chart import CHART, containers, helm, named, objects, pod_templates, selects


class FollowerTest(unittest.TestCase):
    """The second store, while it follows the first and after they have changed parts."""

    FOLLOWS = ("retrieval.follower.enabled=true",)
    LEADS = (*FOLLOWS, "retrieval.follower.leads=true")
    # Settings, with the store that leads and the one that follows it.
    BOTH_WAYS = ((FOLLOWS, "retrieval", "retrieval-follower"), (LEADS, "retrieval-follower", "retrieval"))

    def arguments(self, settings):
        """Of each component, those of its containers."""
        found = {}
        for _, template in pod_templates("multi-model", settings):
            every = found.setdefault(template["metadata"]["labels"]["app.kubernetes.io/component"], [])
            every.extend(argument for container in containers(template) for argument in container.get("args", []))
        return found

    def test_there_is_none_unless_it_is_wanted(self):
        arguments = self.arguments(())
        self.assertEqual(set(arguments), {"gateway", "worker", "retrieval", "backup", "ingest"})
        self.assertNotRegex(str(arguments), r"--follow|--retrieval=[^']*\|")

    def test_everybody_knows_which_one_leads(self):
        for settings, leader, follower in self.BOTH_WAYS:
            address = {name: f"demo-clamor-{name}.prod.svc.cluster.local:7720" for name in (leader, follower)}
            arguments = self.arguments(settings)
            self.assertNotIn("--follow", str(arguments[leader]))
            self.assertEqual([one for one in arguments[follower] if one not in arguments[leader]], [f"--follow={address[leader]}"])
            asked = [one for one in arguments["worker"] if one.startswith("--retrieval=")]
            self.assertEqual(asked, [f"--retrieval={address[leader]}|{address[follower]}"] * 3)
            for job in ("backup", "ingest"):
                self.assertEqual({one for one in arguments[job] if one.startswith("--server=")}, {f"--server={address[leader]}"})

    def test_backups_are_of_the_one_that_leads(self):
        for settings, leader, _ in self.BOTH_WAYS:
            pod = named("multi-model", "CronJob", "-backup", settings)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            store = named("multi-model", "StatefulSet", f"-{leader}", settings)
            self.assertIn({"name": "store", "persistentVolumeClaim": {"claimName": f"store-{store['metadata']['name']}-0"}},
                          pod["volumes"])
            beside, = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            found = [one["metadata"]["name"] for one in objects("multi-model", "StatefulSet", settings=settings)
                     if selects(beside["labelSelector"], one["spec"]["template"]["metadata"]["labels"])]
            self.assertEqual(found, [store["metadata"]["name"]])

    def test_each_has_a_volume(self):
        stores = [named("redis-tls", "StatefulSet", suffix)["spec"] for suffix in ("-retrieval", "-retrieval-follower")]
        for store in stores:
            self.assertEqual([claim["metadata"]["name"] for claim in store["volumeClaimTemplates"]], ["store"])

    def test_they_lie_apart_and_go_one_by_one(self):
        labels, spread = [], []
        for suffix in ("-retrieval", "-retrieval-follower"):
            template = named("redis-tls", "StatefulSet", suffix)["spec"]["template"]
            labels.append(template["metadata"]["labels"])
            spread += [one["labelSelector"] for one in template["spec"]["topologySpreadConstraints"]]
        budget = named("redis-tls", "PodDisruptionBudget", "-retrieval")["spec"]
        self.assertEqual(budget["maxUnavailable"], 1)
        for selector in (*spread, budget["selector"]):
            self.assertTrue(all(selects(selector, label) for label in labels), selector)

    def test_turning_it_on_restarts_no_store(self):
        before, after = (named("multi-model", "StatefulSet", "-retrieval", settings) for settings in ((), self.FOLLOWS))
        self.assertEqual(before, after)

    def test_who_may_call_a_store(self):
        for settings, leader, follower in self.BOTH_WAYS:
            policies = [found["spec"] for found in objects("multi-model", "NetworkPolicy", settings=settings)]
            labels = [template["metadata"]["labels"] for _, template in pod_templates("multi-model", settings)]

            def allows(way, peers, one, other):
                """Whether a policy of the pods `one` lets them call, or be called by, those of `other`."""
                return any(selects(policy["podSelector"], one) and port in (7720, "grpc") and
                           any(selects(peer.get("podSelector", {}), other) and "namespaceSelector" not in peer
                               for peer in rule[peers])
                           for policy in policies for rule in policy.get(way, []) if peers in rule
                           for port in (each["port"] for each in rule.get("ports", [])))

            def callers(store):
                of = "app.kubernetes.io/component"
                target = next(label for label in labels if label[of] == store)
                ways = [{label[of] for label in labels if allows("egress", "to", label, target)},
                        {label[of] for label in labels if allows("ingress", "from", target, label)}]
                self.assertEqual(*ways, store)
                return ways[0]

            self.assertEqual(callers(leader), {"worker", "backup", "ingest", follower})
            self.assertEqual(callers(follower), {"worker"})

    def test_a_name_that_is_too_long(self):
        longest = "clamor-" + 26 * "x"
        for name, works in ((longest, True), (longest + "x", False)):
            done = helm("template", name, CHART, "--set", self.FOLLOWS[0])
            self.assertEqual(done.returncode == 0, works, done.stderr)
        self.assertIn("a StatefulSet's name has 52 characters at most, this one 53", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
