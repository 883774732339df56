"""What helm makes of the chart."""
import functools
import json
import pathlib
import subprocess

import yaml

import tools

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/clamor"
SETS = sorted(path.stem.removesuffix("-values") for path in (CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "prod"


def helm(*arguments):
    return subprocess.run([tools.HELM, *map(str, arguments)], capture_output=True, text=True)


def values_file(name):
    return CHART / f"ci/{name}-values.yaml"


@functools.cache
def render(name, *settings):
    """The objects that the value set `name` becomes, with further `--set`s."""
    sets = [f"--set={setting}" for setting in settings]
    done = helm("template", "demo", CHART, "--namespace", NAMESPACE, "--values", values_file(name), *sets)
    if done.returncode != 0:
        raise AssertionError(f"helm template {name}: {done.stderr}")
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def objects(name, *kinds, settings=()):
    return [found for found in render(name, *settings) if found["kind"] in kinds]


def named(name, kind, suffix, settings=()):
    """The one object of that kind whose name ends so."""
    found = [one for one in objects(name, kind, settings=settings) if one["metadata"]["name"].endswith(suffix)]
    if len(found) != 1:
        raise AssertionError(f"{name}: {len(found)} objects of kind {kind} that end in {suffix}")
    return found[0]


def pod_templates(name, settings=()):
    """Of each workload, its name and the template of its pods."""
    for found in objects(name, "Deployment", "StatefulSet", "Job", "CronJob", settings=settings):
        spec = found["spec"]["jobTemplate"]["spec"] if found["kind"] == "CronJob" else found["spec"]
        yield found["metadata"]["name"], spec["template"]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def selects(selector, labels):
    """Whether a label selector, of any kind of object, finds what has these labels."""
    wanted = selector.get("matchLabels", {}).items()
    return wanted <= labels.items() and all(labels.get(one["key"]) in one["values"]
                                            for one in selector.get("matchExpressions", []))


def dashboards(name):
    """Of each dashboard in the ConfigMaps, its parsed JSON."""
    return [json.loads(text) for found in objects(name, "ConfigMap") for text in found["data"].values()]
