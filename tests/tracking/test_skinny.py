"""mlflow-skinny, which is what images hold, is enough against a server; a SQLite file needs the full mlflow, and that is said."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from sida.stores import ObjectStore
from tests.conftest import ROOT
from tests.tracking.conftest import Server
from tests.tracking.runs import CURVE, Made
from tests.tracking.test_tracking import named, points, runs_of

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own dependencies warn

SKINNY = """
import importlib.abc, json, sys
hidden = set(json.loads(sys.argv.pop(1)))
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] in hidden else real(name, *more)
sys.meta_path.insert(0, Hide())
from pipeline.__main__ import main
status = main()
assert not hidden & {name.partition(".")[0] for name in sys.modules}
sys.exit(status)
"""


def closure(*names: str) -> set[str]:
    """The distributions that these need here, themselves among them."""
    found: set[str] = set()
    wanted = list(names)
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            required = map(Requirement, needs)
            wanted += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def only_of_full_mlflow() -> list[str]:
    """Top-level modules that a machine with mlflow-skinny and this project's own needs does not have."""
    kept = closure("mlflow-skinny", "torch", "kfp", "matplotlib", "jinja2", "botocore", "safetensors", "rich", "pillow")
    gone = closure("mlflow") - kept - {"mlflow"}
    modules = {
        module
        for module, owners in metadata.packages_distributions().items()
        if all(owner.lower().replace("_", "-") in gone for owner in owners)
    }
    assert {"sqlalchemy", "alembic", "flask", "pandas"} <= modules
    return sorted(modules)


def track(run: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SKINNY, json.dumps(only_of_full_mlflow()), "track", run]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_sqlite_file_is_left_alone_with_a_line_that_says_what_is_missing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    Made(store, named(), (1.0, 1.01, 0.99)).write("run-1")
    done = track("run-1")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "needs the full mlflow" in line


@pytest.mark.slow
def test_a_server_gets_everything_from_a_client_that_has_only_mlflow_skinny(
    store: ObjectStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    made = Made(store, named(), (1.0, 1.01, 0.99))
    done = track(made.write("run-1"))
    assert done.returncode == 0, done.stderr
    found = runs_of(server.address, made)
    assert set(found) == {"run", "distill", "score"}
    assert len(points(server.address, found["distill"], "loss_psi")) == len(CURVE)
    assert "already" in track("run-1").stdout
