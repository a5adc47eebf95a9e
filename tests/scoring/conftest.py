"""What scoring tests share: a tiny recipe, and the digits' teacher as a one-step generator with its reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sida.launch.spec import Spec
from sida.manifests import Manifest
from sida.recipe import Recipe, load, parse
from sida.steps import StepRun
from tests.conftest import ROOT
from tests.jobs import run_here

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"
ASSET = ROOT / "recipes" / "assets" / "digits-teacher.safetensors"


def tiny(**sections: dict[str, Any]) -> Recipe:
    """The tiny recipe with fields of its sections changed."""
    fields = load(str(TINY)).model_dump(mode="json")
    for name, changes in sections.items():
        fields[name] = (fields[name] or {}) | changes
    return parse(fields, "test")


METHOD = {"images": 256, "generator_from": 0, "adversarial_from": 0, "decay_from": 128}
SMALL = {"images": 100, "ranges": 2, "selection_images": 50, "selection_every": 256}


def small() -> Recipe:
    """A whole run of seconds."""
    return tiny(method=METHOD, evaluation=SMALL, execution={"checkpoint_every": 256, "processes": 1})


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's store is kept from one test to the next: distilling takes its time."""
    return tmp_path_factory.mktemp("shelf")


@dataclass(frozen=True)
class Inputs:
    """Manifests as files, as steps take them."""

    generator: str
    dataset: str
    reference: str


@pytest.fixture
def inputs(place: Path) -> Inputs:
    """Made in this process where possible: the reference takes the launcher's workers."""
    return make_inputs(place, tiny())


def make_inputs(place: Path, recipe: Recipe) -> Inputs:
    from sida.data.prepare import prepare_data
    from sida.scoring.adopt import fetch_released
    from sida.scoring.reference import reference_statistics
    from tests.scoring.files import runner

    folder = place / "inputs"
    folder.mkdir(exist_ok=True)
    run = runner(folder, recipe)
    generator = run(fetch_released, address=ASSET.as_uri(), method="one step of the teacher")
    dataset = run(prepare_data)
    return Inputs(generator, dataset, run(reference_statistics, dataset=dataset))


def manifest(path: str) -> Manifest:
    from sida.manifests import parse_manifest

    return parse_manifest(Path(path).read_bytes(), path)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs run in this process, in place of torchrun's: the same worker functions, seconds less."""
    import torch

    from sida.worker.ranks import Processes

    def run_job(run: StepRun, spec: Spec[Any], *_: Any) -> Any:
        return run_here(run, spec, Processes(0, 1, torch.device("cpu")))

    for module in ("sida.scoring.reference", "sida.scoring.score", "sida.training.distill_step"):
        monkeypatch.setattr(f"{module}.run_job", run_job)
    return place
