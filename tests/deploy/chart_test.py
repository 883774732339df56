"""The Helm chart: lint, what the templates make of each value set in ci/, strictly against the schemas of Kubernetes, what
must hold of every pod, and what the values' schema refuses."""
import json
import os
import pathlib
import re
import subprocess
import unittest

import tools

tools.enter()

import jsonschema
import kubernetes_validate
import yaml

import chart
from chart import CHART, ROOT, SETS, containers, helm, named, objects, pod_templates, render, selects, values_file

KUBERNETES = "1.31"
CUSTOM = json.loads((pathlib.Path(__file__).parent / "custom_resources.json").read_text())
BIN_DIR = pathlib.Path(os.environ.get("CLAMOR_BIN_DIR", ROOT / "build/release/bin"))


class ManifestTest(unittest.TestCase):
    """Of every value set, every object."""

    def test_there_are_six(self):
        self.assertEqual(set(SETS), {"default", "minimal", "gpu", "multi-model", "redis-tls", "autoscaled"})

    def test_lint(self):
        for name in SETS:
            done = helm("lint", "--strict", CHART, "--values", values_file(name))
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn("1 chart(s) linted, 0 chart(s) failed", done.stdout)

    def test_schemas(self):
        for name in SETS:
            for found in render(name):
                if found["kind"] in CUSTOM["definitions"]:
                    schema = {"$ref": f"#/definitions/{found['kind']}", "definitions": CUSTOM["definitions"]}
                    jsonschema.validate(found, schema)
                else:
                    kubernetes_validate.validate(found, KUBERNETES, strict=True)

    def test_schemas_refuse(self):
        """The checks above can fail."""
        service = json.loads(json.dumps(named("default", "Service", "-gateway")))
        service["spec"]["selektor"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(service, KUBERNETES, strict=True)

    def test_names_are_unique(self):
        for name in SETS:
            names = [(found["kind"], found["metadata"]["name"]) for found in render(name)]
            self.assertEqual(len(names), len(set(names)))

    def test_restricted_pod_security(self):
        for name in SETS:
            for workload, template in pod_templates(name):
                pod = template["spec"]
                self.assertTrue(pod["securityContext"]["runAsNonRoot"], workload)
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"}, workload)
                self.assertFalse(pod["automountServiceAccountToken"], workload)
                for volume in pod["volumes"]:
                    self.assertTrue({"emptyDir", "secret", "persistentVolumeClaim"} & volume.keys(), volume)
                for container in containers(template):
                    self.assertEqual(container["securityContext"],
                                     {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                      "capabilities": {"drop": ["ALL"]}}, container["name"])
                    self.assertIn("memory", container["resources"]["limits"], container["name"])
                    self.assertNotRegex(container["image"], ":latest$|^[^:@]+$")

    def test_mounts_are_volumes(self):
        for name in SETS:
            claims = {found["metadata"]["name"]: [claim["metadata"]["name"] for claim in
                                                  found["spec"].get("volumeClaimTemplates", [])]
                      for found in objects(name, "StatefulSet")}
            for workload, template in pod_templates(name):
                there = [volume["name"] for volume in template["spec"]["volumes"]] + claims.get(workload, [])
                used = [mount["name"] for container in containers(template) for mount in container["volumeMounts"]]
                self.assertEqual(set(there), set(used), workload)
                for container in containers(template):
                    for argument in container.get("args", []):
                        value = argument.partition("=")[2] if argument.startswith("--") else ""
                        if value.startswith("/") and not value.startswith("/usr/share/clamor/"):
                            mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
                            self.assertTrue(any(value.startswith(path) for path in mounted), argument)

    def test_selectors_find_pods(self):
        """Of a Service also: each port is one of the container's. Of a policy also: its peers."""
        for name in SETS:
            pods = [(template["metadata"]["labels"], {port["name"] for container in containers(template)
                                                      for port in container.get("ports", [])})
                    for _, template in pod_templates(name)]
            labels = [label for label, _ in pods]
            for service in objects(name, "Service"):
                found = [ports for label, ports in pods if selects({"matchLabels": service["spec"]["selector"]}, label)]
                self.assertEqual(len(found), 1, service["metadata"]["name"])
                self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, found[0])
            budgets = objects(name, "PodDisruptionBudget")
            for budget in budgets:
                self.assertTrue(any(selects(budget["spec"]["selector"], label) for label in labels), budget)
            for server in objects(name, "Deployment", "StatefulSet"):  # of two budgets over a pod neither would let it go
                label = server["spec"]["template"]["metadata"]["labels"]
                found = [budget for budget in budgets if selects(budget["spec"]["selector"], label)]
                self.assertEqual(len(found), 1 if budgets else 0, server["metadata"]["name"])
            for policy in objects(name, "NetworkPolicy"):
                self.assertTrue(any(selects(policy["spec"]["podSelector"], label) for label in labels), policy)
            for monitor in objects(name, "ServiceMonitor"):
                found = [service for service in objects(name, "Service")
                         if selects(monitor["spec"]["selector"], service["metadata"]["labels"])]
                self.assertEqual(len(found), len(objects(name, "Service")))
                for service in found:
                    self.assertIn(monitor["spec"]["endpoints"][0]["port"],
                                  [port["name"] for port in service["spec"]["ports"]])

    def test_workloads_select_their_own_pods_alone(self):
        for name in SETS:
            workloads = objects(name, "Deployment", "StatefulSet")
            for workload in workloads:
                found = [other["metadata"]["name"] for other in workloads if
                         selects(workload["spec"]["selector"], other["spec"]["template"]["metadata"]["labels"])]
                self.assertEqual(found, [workload["metadata"]["name"]])

    def test_autoscalers_scale_what_is_there(self):
        for name in SETS:
            there = {(found["kind"], found["metadata"]["name"]) for found in objects(name, "Deployment", "StatefulSet")}
            for scaler in objects(name, "HorizontalPodAutoscaler", "ScaledObject"):
                target = scaler["spec"]["scaleTargetRef"]
                self.assertIn((target["kind"], target["name"]), there)
                self.assertNotIn("replicas", named(name, target["kind"], target["name"])["spec"])

    def test_servers_know_their_flags(self):
        if not (BIN_DIR / "clamor-gateway").exists():
            self.skipTest(f"no servers in {BIN_DIR}")
        help_of, unknown = {}, set()
        for name in SETS:
            for _, template in pod_templates(name):
                for container in containers(template):
                    if not container["command"][0].startswith("clamor"):
                        continue
                    command = (BIN_DIR / container["command"][0], *container["command"][1:])
                    if command not in help_of:
                        help_of[command] = subprocess.run([*command, "--help"], capture_output=True, text=True).stdout
                    for argument in container["args"]:
                        flag = argument.partition("=")[0]
                        if flag.startswith("--") and not re.search(rf"(?m)^\s+{flag}\b", help_of[command]):
                            unknown.add(flag)
        self.assertEqual(unknown, set())

    def test_servers_get_the_time_that_they_need(self):
        for name in SETS:
            for workload, template in pod_templates(name):
                server = template["spec"]["containers"][0]
                if "lifecycle" not in server:
                    continue
                grace = next(int(flag.split("=")[1]) for flag in server["args"] if flag.startswith("--grace="))
                settle = server["lifecycle"]["preStop"]["sleep"]["seconds"]
                self.assertGreater(template["spec"]["terminationGracePeriodSeconds"], grace + settle, workload)
                self.assertEqual({"startupProbe", "readinessProbe", "livenessProbe"} - server.keys(), set(), workload)
                ports = [port["containerPort"] for port in server["ports"]]
                self.assertIn(server["readinessProbe"]["grpc"]["port"], ports)


class ChoiceTest(unittest.TestCase):
    """What the value sets are there to show."""

    def test_gateways(self):
        local = named("default", "StatefulSet", "-gateway")["spec"]
        self.assertEqual((local["replicas"], len(local["volumeClaimTemplates"])), (1, 1))
        shared = named("redis-tls", "Deployment", "-gateway")["spec"]
        self.assertEqual(shared["replicas"], 3)
        server = shared["template"]["spec"]["containers"][0]
        self.assertEqual([flag for flag in server["args"] if flag.startswith("--sessions")],
                         ["--sessions=rediss://clamor@redis:6379/0",
                          "--sessions-password-file=/etc/clamor/redis-password/password",
                          "--sessions-ca=/etc/clamor/redis-ca/ca.crt"])

    def test_gpu(self):
        pod = named("gpu", "StatefulSet", "-assistant-70b")["spec"]["template"]["spec"]
        worker = pod["containers"][0]
        self.assertEqual(pod["runtimeClassName"], "nvidia")
        self.assertTrue(worker["image"].endswith("-cuda"))
        for amounts in worker["resources"].values():
            self.assertEqual(amounts["nvidia.com/gpu"], 2)
        self.assertIn("--model=/models/assistant-70b", worker["args"])

    def test_models_and_where_they_come_from(self):
        workers = {found["metadata"]["labels"]["clamor/model"]: found["spec"]["template"]["spec"] for found in
                   objects("multi-model", "StatefulSet") if "-worker-" in found["metadata"]["name"]}
        self.assertEqual(set(workers), {"small", "code", "large"})
        self.assertIn("cp -R /model/.", workers["small"]["initContainers"][0]["args"][0])
        self.assertIn("sha256sum -c", workers["code"]["initContainers"][0]["args"][0])
        self.assertNotIn("initContainers", workers["large"])
        for name, flag in (("small", "--weights=int8"), ("large", "--weights=int4"), ("code", "--prefill-chunk=1024")):
            self.assertIn(flag, workers[name]["containers"][0]["args"])
        gateway = named("multi-model", "StatefulSet", "-gateway")["spec"]["template"]["spec"]["containers"][0]
        self.assertIn("--workers=" + ",".join(f"dns:///demo-clamor-worker-{name}.prod.svc.cluster.local:7710"
                                              for name in ("small", "code", "large")), gateway["args"])

    def test_certificate_names_every_server(self):
        names = named("redis-tls", "Certificate", "clamor")["spec"]["dnsNames"]
        for workload, template in pod_templates("redis-tls"):
            for argument in template["spec"]["containers"][0]["args"]:
                if argument.startswith(("--workers=", "--retrieval=", "--follow=")):
                    for address in re.split("[,|]", argument.partition("=")[2]):
                        self.assertIn(address.removeprefix("dns:///").rpartition(":")[0], names)

    def test_tls_reaches_everybody(self):
        for workload, template in pod_templates("redis-tls"):
            arguments = template["spec"]["containers"][0]["args"]
            self.assertIn("--tls-cert=/etc/clamor/tls/tls.crt", arguments, workload)
            self.assertEqual("--tls-client-ca=/etc/clamor/tls/ca.crt" in arguments, "gateway" not in workload)

    def test_traces_reach_the_collector(self):
        settings = ("tracing.endpoint=collector.telemetry:4317", "tracing.tls=true", "tracing.sample=0")
        policy = named("redis-tls", "NetworkPolicy", "-sends-traces", settings)["spec"]
        servers = [found for found in objects("redis-tls", "Deployment", "StatefulSet", settings=settings)]
        self.assertEqual(len(servers), 4)
        for server in servers:
            template = server["spec"]["template"]
            arguments = template["spec"]["containers"][0]["args"]
            self.assertIn("--otlp-endpoint=collector.telemetry:4317", arguments)
            self.assertIn("--otlp-tls", arguments)
            self.assertEqual("--trace-sample=0" in arguments, "gateway" in server["metadata"]["name"])
            self.assertTrue(selects(policy["podSelector"], template["metadata"]["labels"]))
        self.assertNotIn("--otlp", str(list(pod_templates("redis-tls"))))

    def test_nothing_is_allowed_first(self):
        policy = named("default", "NetworkPolicy", "-default")["spec"]
        self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
        for _, template in pod_templates("multi-model"):
            self.assertTrue(selects(policy["podSelector"], template["metadata"]["labels"]))
        self.assertEqual([rule.get("to") for rule in policy["egress"]], [None])
        self.assertEqual({port["port"] for rule in policy["egress"] for port in rule["ports"]}, {53})

    def test_rules_and_dashboards_are_those_of_the_folders(self):
        groups = [group for name in ("recording", "alerts")
                  for group in yaml.safe_load((ROOT / f"deploy/prometheus/{name}.yaml").read_text())["groups"]]
        self.assertEqual(named("autoscaled", "PrometheusRule", "clamor")["spec"]["groups"], groups)
        stored = [json.loads(path.read_text()) for path in sorted((ROOT / "deploy/grafana").glob("*.json"))]
        self.assertEqual(sorted(chart.dashboards("autoscaled"), key=lambda one: one["uid"]),
                         sorted(stored, key=lambda one: one["uid"]))

    def test_bulk_loads_and_backup(self):
        jobs = {found["metadata"]["name"]: found["spec"] for found in objects("multi-model", "Job")}
        load = jobs["demo-clamor-ingest-manuals"]
        self.assertEqual((load["completionMode"], load["completions"], load["parallelism"]), ("Indexed", 16, 4))
        self.assertIn("/documents/manuals-$(JOB_COMPLETION_INDEX).jsonl", load["template"]["spec"]["containers"][0]["args"])
        backup = named("multi-model", "CronJob", "-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        claims = {volume["persistentVolumeClaim"]["claimName"] for volume in backup["volumes"]
                  if "persistentVolumeClaim" in volume}
        store = named("multi-model", "StatefulSet", "-retrieval")
        self.assertEqual(claims, {"backups", f"store-{store['metadata']['name']}-0"})


class RefusalTest(unittest.TestCase):
    """Values that cannot work, and the words that say which."""

    REFUSED = [
        ("gateway.replicas=2", "gateway.replicas does not match: 1"),
        ("gateway.autoscaling.enabled=true", "gateway.autoscaling.enabled does not match: false"),
        ("sessions.store=redis", "sessions.redis.url: String length must be greater than or equal to 1"),
        ("sessions.store=memory", "sessions.store must be one of the following"),
        ("sessions.redis.url=http://x", "sessions.redis.url: Does not match pattern"),
        ("sessions.redis.url=redis://user:secret@x", "sessions.redis.url: Does not match pattern"),
        ("gatway.replicas=1", "Additional property gatway is not allowed"),
        ("workerDefaults.weigths=int8", "Additional property weigths is not allowed"),
        ("workerDefaults.weights=int5", "workerDefaults.weights must be one of the following"),
        ("workerDefaults.autoscaling.calm=7200", "workerDefaults.autoscaling.calm: Must be less than or equal to 3600"),
        ("models=[]", "models: Array must have at least 1 items"),
        ('models=[{"name": "m"}]', "source is required"),
        ('models=[{"name": "A_b", "source": {"path": "/m"}}]', "models.0.name: Does not match pattern"),
        ('models=[{"name": "m", "source": {"path": "/m", "image": "x:1"}}]', "models.0.source: Must have at most 1 properties"),
        ('models=[{"name": "m", "source": {"archive": {"uri": "https://x/y"}}}]', "sha256 is required"),
        ("image.tag=latest", "image.tag: Must not validate the schema (not)"),
        ("retrieval.backup.enabled=true", "retrieval.backup.claim: String length must be greater than or equal to 1"),
        ("retrieval.follower=true", "retrieval.follower: Invalid type"),
        ("retrieval.follower.enabled=1", "retrieval.follower.enabled: Invalid type. Expected: boolean"),
        ("retrieval.follower.replicas=2", "Additional property replicas is not allowed"),
        ("retrieval.follower.leads=true", "retrieval.follower.enabled does not match: true"),
        ('retrieval={"enabled": false, "follower": {"enabled": true}}', "retrieval.enabled does not match: true"),
        ("tls.enabled=true", "tls.existingSecret: String length must be greater than or equal to 1"),
        ("route.enabled=true", "route.parentRefs: Array must have at least 1 items"),
        ("networkPolicy.clients=[{}]", "networkPolicy.clients.0: Must have at least 1 properties"),
        ('retrieval.ingest=[{"name": "a", "model": "demo", "claim": "c", "pattern": "x", "shards": 1, "parallel": 1}]',
         "retrieval.ingest.0.pattern: Does not match pattern"),
        ('retrieval.ingest=[{"name": "a", "model": "none", "claim": "c", "pattern": "$(JOB_COMPLETION_INDEX)", "shards": 1, '
         '"parallel": 1}]', 'a: there is no model "none" in models'),
    ]

    def test_refused(self):
        for value, words in self.REFUSED:
            with self.subTest(value):
                path, _, text = value.partition("=")
                done = helm("template", "demo", CHART, "--set-json", f"{path}={self.as_json(text)}")
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(words, done.stderr)

    @staticmethod
    def as_json(text):
        try:
            json.loads(text)
            return text
        except ValueError:
            return json.dumps(text)

    def test_the_schema_is_closed(self):
        """No object of ours may have fields that are not named, but for those whose names are the user's."""
        open_objects = {"global", "labels", "amounts"}

        def check(schema, path):
            if schema.get("type") == "object" and "properties" in schema:
                self.assertIs(schema.get("additionalProperties"), False, path)
            for key, value in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
                check(value, f"{path}.{key}")

        schema = json.loads((CHART / "values.schema.json").read_text())
        check(schema, "")
        self.assertLessEqual(open_objects, schema["properties"].keys() | schema["definitions"].keys())

    def test_every_value_has_a_schema(self):
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        properties = json.loads((CHART / "values.schema.json").read_text())["properties"]
        self.assertEqual(values.keys(), properties.keys() - {"global"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
