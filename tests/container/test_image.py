"""The images as a cluster would run them: a user that is a number, a read-only root, nothing but /tmp to write to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.image import labels
from sida.registry import STEPS
from tests.conftest import ROOT
from tests.container.oci import Image

pytestmark = pytest.mark.container

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"
MEBIBYTE = 1 << 20


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_each_image_says_where_it_comes_from_and_runs_as_a_number(each: tuple[str, Image]) -> None:
    _, image = each
    names = {name.removeprefix("org.opencontainers.image."): value for name, value in image.config["Labels"].items()}
    expected = labels()
    assert names["version"] == expected["VERSION"]
    assert names["revision"] == expected.get("REVISION", "unknown")
    assert names["source"].startswith("https://")
    assert names["base.name"] == "localhost/sida-base:bookworm"
    assert image.config["User"] == "10001:10001"


def test_no_image_holds_a_compiler_pip_or_anything_of_the_machine_that_built_it(each: tuple[str, Image]) -> None:
    _, image = each
    programs = {
        path.name
        for folder in ("usr/bin", "usr/local/bin", "opt/venv/bin")
        for path in (image.rootfs / folder).glob("*")
    }
    assert "python3" in programs
    assert programs & {"gcc", "cc", "g++", "clang", "make", "pip", "pip3", "git", "curl"} == set()
    assert [path.name for path in (image.rootfs / "opt").iterdir()] == ["venv"]
    for name in ("root/.config", "etc/pip.conf", "etc/xdg/pip", "locks", "app/tests", "app/images"):
        assert not (image.rootfs / name).exists()


def test_the_image_holds_the_code_of_this_checkout(image: Image) -> None:
    assert image.config["WorkingDir"] == "/app"
    for folder in ("sida", "components", "pipeline"):
        inside, here = (
            {path.relative_to(root): path.read_bytes() for path in (root / folder).rglob("*.py")}
            for root in (image.rootfs / "app", ROOT)
        )
        assert inside == here, "a stale layer, or a file that changed while this test ran"


@pytest.mark.parametrize(
    ("name", "most"),
    [
        # 1,460 measured: torch 520, scipy, scikit-learn 230, Debian with Python 170, kfp 120, mlflow-skinny 110, diffusers 95
        ("cpu", 1500),
        # 993 measured: scipy, scikit-learn 195, Debian with Python 170, pyarrow 156, pandas 84, numpy 73, mlflow 69, matplotlib 65
        ("mlflow", 1050),
    ],
)
def test_no_image_is_larger_than_what_it_is_made_of(built: Callable[[str], Image], name: str, most: int) -> None:
    size = built(name).size / MEBIBYTE
    print(f"{name}: {size:.0f} MiB")
    assert size < most


def test_the_bill_of_materials_names_what_python_and_debian_installed(each: tuple[str, Image], tmp_path: Path) -> None:
    name, image = each
    made = tmp_path / "sbom.cdx.json"
    command = [sys.executable, "scripts/sbom.py", str(image.rootfs), "--output", str(made)]
    output(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False))
    bill = json.loads(made.read_text())
    found = {component["purl"].partition("?")[0] for component in bill["components"] if "purl" in component}
    locked = re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (ROOT / "images" / f"{name}.lock").read_text())
    assert len(locked) > 50
    assert {f"pkg:pypi/{package}@{version}" for package, version in locked} <= found
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in found)
    assert len({component["bom-ref"] for component in bill["components"]}) == len(bill["components"])


def test_what_kfp_needs_is_there(image: Image) -> None:
    assert "--executor_input" in output(image.run("sh", "-c", "python3 -m kfp.dsl.executor_main --help"))


@pytest.mark.parametrize("step", sorted(STEPS))
def test_every_step_explains_itself(image: Image, step: str) -> None:
    assert f"sida step {step}" in output(image.run("sida", "step", step, "--help"))


def test_the_command_line_explains_itself_and_finds_its_recipes(image: Image) -> None:
    assert "examples:" in output(image.run(*image.config["Cmd"]))
    assert "digits" in output(image.run("python", "-m", "pipeline", "list"))
    assert "digits-teacher.safetensors" in output(image.run("python", "-m", "pipeline", "show", "digits"))


def test_the_root_cannot_be_written_and_no_privilege_is_left(image: Image) -> None:
    script = "id -u; grep -e CapEff -e NoNewPrivs /proc/self/status; touch /app/x || touch /opt/venv/x || echo refused"
    done = image.run("sh", "-c", script)
    assert output(done).split() == ["10001", "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "refused"]
    assert done.stderr.count("Read-only file system") == 2


@pytest.mark.parametrize("user", [None, 54321])
def test_torch_is_a_cpu_build_that_computes_for_any_user(image: Image, user: int | None) -> None:
    code = "import torch, getpass, sida; print(torch.version.cuda, int((torch.eye(3) @ torch.eye(3)).sum()), getpass.getuser())"
    assert output(image.run("python3", "-c", code, user=user)).split() == ["None", "3", "sida"]


def test_images_are_encoded_as_latents_without_anything_to_install(image: Image) -> None:
    code = (
        "import diffusers, numpy; from sida.data.latents import encoder_of; vae = diffusers.AutoencoderKL().eval(); "
        "print(*encoder_of(vae)(numpy.zeros((3, 8, 8), 'uint8')).shape)"
    )
    assert output(image.run("python3", "-c", code)).split() == ["8", "8", "8"]


def run_tiny(image: Image, store: dict[str, str], *options: str) -> dict[str, Any]:
    command = ("python", "-m", "pipeline", "run", "/recipes/tiny.yaml", "--json", *options)
    done = image.run(*command, env=store, files={TINY: "/recipes/tiny.yaml"}, timeout=600)
    result: dict[str, Any] = json.loads(output(done))
    return result


def test_the_whole_dag_runs_on_s3_and_another_container_reuses_all_of_it(image: Image, store: dict[str, str]) -> None:
    first = run_tiny(image, store)
    assert {step["state"] for step in first["steps"]} == {"ran"}
    assert len(first["steps"]) == 8
    assert "surpasses its teacher" in first["verdict"]

    second = run_tiny(image, store)  # nothing of the first container is left but what it put in the store
    assert {step["state"] for step in second["steps"]} == {"reused"}
    assert second["scores"] == first["scores"]
    assert second["generator"] == first["generator"]
    if image.written is not None:
        left = {path.relative_to(image.written).as_posix() for path in image.written.rglob("*") if path.is_file()}
        assert left <= {"recipes/tiny.yaml"}  # the empty file that our mount is laid on


def test_a_step_started_as_kfp_starts_it_writes_its_artifact(image: Image, store: dict[str, str]) -> None:
    # The command of the compiled pipeline with the launcher's words for it; the launcher keeps artifacts of s3:// under /s3.
    compiled = next(iter(yaml.safe_load_all((ROOT / "compiled" / "digits.yaml").read_text())))
    container = compiled["deploymentSpec"]["executors"]["exec-prepare-data"]["container"]
    artifact = {
        "name": "dataset",
        "type": {"schemaTitle": "system.Dataset"},
        "uri": "s3://kfp/run/dataset",
        "metadata": {},
    }
    words = {
        "inputs": {"parameterValues": {"recipe": "digits"}},
        "outputs": {"outputFile": "/tmp/out/metadata.json", "artifacts": {"dataset": {"artifacts": [artifact]}}},
    }
    arguments = [json.dumps(words) if word == "{{$}}" else word for word in container["args"]]
    look = 'sh "$@" >&2 && cat /s3/kfp/run/dataset /tmp/out/metadata.json'
    command = ("sh", "-ec", look, "look", *container["command"][1:], *arguments)
    text = output(image.run(*command, env=store, scratch=("/tmp", "/s3")))
    manifest, end = json.JSONDecoder().raw_decode(text)
    written = json.loads(text[end:])["artifacts"]["dataset"]["artifacts"][0]
    assert manifest["result"]["kind"] == "dataset"
    assert written["uri"] == artifact["uri"]
    assert written["metadata"]["address"].startswith(store["SIDA_STORE"])


def test_a_store_that_stays_away_is_named_in_the_last_line_with_status_75(image: Image, store: dict[str, str]) -> None:
    nowhere = store | {"SIDA_S3_ENDPOINT": "http://127.0.0.1:9", "SIDA_PATIENCE": "2"}
    done = image.run("sida", "step", "prepare_data", "--recipe", "digits", env=nowhere)
    assert done.returncode == 75
    assert "error: cannot reach http://127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_pods_of_kfp_find_python_first_on_the_path(image: Image) -> None:
    assert Path(output(image.run("sh", "-c", "command -v python3")).strip()) == Path("/opt/venv/bin/python3")
