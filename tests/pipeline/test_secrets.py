"""No secret is kept or printed: recipes and profiles that hold one are refused, what the environment holds stays there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import profile
from pipeline.engines import kubeflow
from sida.errors import SidaError
from sida.recipe import parse
from tests.conftest import ROOT
from tests.pipeline.command import Command

WORD = "hushhush"
ADDRESS = f"https://me:{WORD}@127.0.0.1:1/teacher.safetensors"
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "AKIAHUSHHUSH00112233",
    "AWS_SECRET_ACCESS_KEY": f"{WORD}-s3-secret",
    "AWS_SESSION_TOKEN": f"{WORD}-session",
    "SIDA_WEBHOOK": f"http://127.0.0.1:1/{WORD}-webhook",
    "KFP_TOKEN": f"{WORD}-kfp",
    "HF_TOKEN": f"hf_{WORD * 4}",
    "MLFLOW_TRACKING_PASSWORD": f"{WORD}-mlflow",
    "HTTP_PROXY": f"http://me:{WORD}@127.0.0.1:1",
    "https_proxy": f"http://{WORD}@127.0.0.1:1",
    "PIP_INDEX_URL": f"https://{WORD}@127.0.0.1:1/simple",
}
SECRETS = (WORD.encode(), b"HUSHHUSH00112233")


@pytest.fixture
def secretive(command: Command) -> str:
    """A recipe with a password."""
    path = command.place / "secretive.yaml"
    path.write_text(f"extends: digits\nname: secretive\nteacher: {{address: '{ADDRESS}'}}\n")
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "RECIPE"),
        ("run", "RECIPE", "--json"),
        ("teach", "RECIPE"),
        ("compile", "RECIPE"),
        ("compile", "RECIPE", "--profile", "PROFILE"),
        ("submit", "RECIPE", "--profile", "PROFILE"),
        ("schedule", "RECIPE", "--cron", "0 3 * * *", "--profile", "PROFILE"),
        ("pin", "RECIPE"),
        ("sample", "RECIPE", "--recipe", "RECIPE", "--grid", "g.png"),
        ("score", "RECIPE", "--recipe", "RECIPE"),
        ("convert", "RECIPE", "--output", "out", "--licence", f"see {ADDRESS}"),
        ("new", "other", "--teacher", ADDRESS),
        ("new", "other", "--train", "--images", f"s3://bucket/x?token={WORD}"),
        ("run", "digits", "--store", f"me:{WORD}@host"),
        ("run", "digits", "--store", f"s3://me:{WORD}@bucket/x"),
        ("submit", "digits", "--profile", "PROFILE", "--name", ADDRESS),
        ("submit", "digits", "--profile", "PROFILE", "--repeat", ADDRESS),
    ],
)
def test_a_verb_refuses_a_recipe_with_a_secret_before_it_writes_anything(
    command: Command, secretive: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"RECIPE": secretive, "PROFILE": command.profile()}
    before = sorted(command.place.rglob("*"))
    monkeypatch.chdir(command.place)
    line = command(*(names.get(each, each) for each in arguments)).mistake()
    assert WORD not in line and "looks like" in line
    assert sorted(command.place.rglob("*")) == before


@pytest.mark.parametrize("options", [("show",), ("show", "--json"), ("show", "--addresses"), ("plan",)])
def test_what_a_recipe_says_can_be_looked_at_without_its_secrets(
    command: Command, secretive: str, options: tuple[str, ...]
) -> None:
    said = command(options[0], secretive, *options[1:])
    assert said.status in (0, 1), said.err  # plan: whether it fits this machine
    assert WORD not in said.out + said.err
    assert options[0] == "plan" or "https://***@127.0.0.1:1/teacher.safetensors" in said.out


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("host: http://127.0.0.1:1", f"host: http://me:{WORD}@127.0.0.1:1", "kfp.host"),
        ("host: http://127.0.0.1:1", f"host: http://127.0.0.1:1\n  ui: https://h/?token={WORD}", "kfp.ui"),
        ("host: http://127.0.0.1:1", "host: 'http://[::1'", "kfp.host"),
        ("host: http://127.0.0.1:1", "host: http://127.0.0.1:99999", "kfp.host"),
        ("experiment: sida-tests", f"pipeline_root: s3://me:{WORD}@bucket/x", "kfp.pipeline_root"),
        ("AWS_REGION: eu-central-1", f"SIDA_WEBHOOK: https://h/{WORD}", "env.SIDA_WEBHOOK"),
        ("AWS_REGION: eu-central-1", f"NEWS: https://hooks.slack.com/services/{WORD}", "env.NEWS"),
        ("AWS_REGION: eu-central-1", f"MLFLOW_TRACKING_URI: https://{WORD}@h", "env.MLFLOW_TRACKING_URI"),
        ("AWS_REGION: eu-central-1", f"HF_TOKEN: {WORD}", "env.HF_TOKEN"),
        ("AWS_REGION: eu-central-1", f"AWS_ACCESS_KEY_ID: {WORD}", "env.AWS_ACCESS_KEY_ID"),
        ("description: for tests", f"description: https://me:{WORD}@h", "description"),
        ("store: s3://bucket/sida", f"store: s3://me:{WORD}@bucket/sida", "store"),
        ("description: for tests", f"description: s3//me:{WORD}@h", "description"),
        ("experiment: sida-tests", f"https:/me:{WORD}@h: x", "key"),
        ("AWS_REGION: eu-central-1", f"https:/me:{WORD}@h: x", "env"),
        ("description: for tests", 'description: "\\e[2J"', "description"),
    ],
)
def test_a_profile_with_a_secret_is_refused_with_the_field(command: Command, old: str, new: str, field: str) -> None:
    line = command("compile", "digits", "--profile", command.profile((old, new))).mistake()
    assert field in line and WORD not in line


def test_a_token_on_an_open_line_and_tls_that_is_not_checked_are_warned_of_once(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFP_TOKEN", WORD)
    kubeflow._warn.cache_clear()
    token = ("experiment: sida-tests", "token_variable: KFP_TOKEN")
    remote = command.profile(token, ("host: http://127.0.0.1:1", "host: http://nowhere.invalid:1"))
    unchecked = command.profile(
        ("host: http://127.0.0.1:1", "host: https://127.0.0.1:1\n  verify_tls: false"), name="b"
    )
    here = command.profile(token, name="c.yaml")
    for path in (remote, unchecked, here) * 2:
        with pytest.raises(SidaError):
            kubeflow.Client(profile.load(path))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["warning"] * 2
    assert "nowhere.invalid:1 has no TLS" in said[0] and "verify_tls is false" in said[1]


def test_names_and_texts_of_a_recipe_are_short_and_printable(command: Command) -> None:
    path = command.place / "odd.yaml"
    for field, text in (
        ("name", "a" * 300),
        ("description", "a\x1b[31m"),
        ("benchmark", "a\u202eb"),
        ("benchmark", "a\nb"),
    ):
        path.write_text(yaml.safe_dump({"extends": "digits", "name": "odd"} | {field: text}))
        for verb in (("compile",), ("run",), ("show",)):
            line = command(*verb, str(path)).mistake()
            assert field in line and "\x1b" not in line and len(line) <= 300
    path.write_text(yaml.safe_dump({"extends": "digits", "name": "a" * 100}))
    assert command("compile", str(path)).status == 0


def test_a_recipe_of_the_store_is_held_to_the_same_rules() -> None:
    from sida.recipe import load

    fields = load("digits").model_dump(mode="json")
    fields["dataset"]["licence"] = f"see {ADDRESS}"
    with pytest.raises(SidaError, match=r"stored: dataset.licence looks like a secret") as caught:
        parse(fields, "stored")
    assert WORD not in str(caught.value)


@pytest.mark.slow
def test_a_whole_run_leaves_no_secret_of_its_environment_anywhere(place: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name.lower() not in ("http_proxy", "https_proxy")}
    variables |= VARIABLES | {"PYTHONPATH": str(ROOT), "HOME": str(place / "home"), "SIDA_PATIENCE": "1"}
    small = {"method": {"images": 512}, "evaluation": {"images": 70, "selection_images": 64, "selection_every": 256}}
    mine = {"extends": str(ROOT / "tests" / "recipes" / "tiny"), "name": "mine", "expected": None} | small
    (place / "mine.yaml").write_text(yaml.safe_dump(mine))
    database, away = f"sqlite:///{place / 'runs' / 'mlflow.db'}", f"http://me:{WORD}@127.0.0.1:1"
    run = None
    for uri, verb in (
        (away, ("run", "mine.yaml")),
        (database, ("run", "mine.yaml", "--verbose", "--force", "score")),
        (away, ("track", "RUN")),
        (database, ("compare",)),
        (database, ("compile", "mine.yaml", "--output", "ir.yaml")),
        (database, ("doctor",)),
        (database, ("status",)),
        (database, ("logs", "RUN", "distill")),
    ):
        run = run or next((path.name for path in (place / "runs").glob("*-mine-*")), None)
        command = [sys.executable, "-m", "pipeline", *(str(run) if each == "RUN" else each for each in verb)]
        done = subprocess.run(
            command, cwd=place, env=variables | {"MLFLOW_TRACKING_URI": uri}, capture_output=True, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0 or verb[0] in ("track", "doctor"), said
        assert b"Traceback" not in said
        assert not any(secret in said for secret in SECRETS), (verb, said)
    written = [path for path in place.rglob("*") if path.is_file()]
    assert {"mlflow.db", "log.txt", "ir.yaml", "comparison.html", "spec.json", "report.json"} <= {
        p.name for p in written
    }
    for path in written:
        assert not any(secret in path.read_bytes() for secret in SECRETS), path


@pytest.mark.parametrize(
    "text",
    [
        f"teacher: {{licence: 's3//me:{WORD}@h'}}",
        f"teacher: {{'https:/me:{WORD}@h': 1}}",
        f"'me:{WORD}@h': 1",
        f"method: {{alpha: '{'x' * 75}https:/me:{WORD}@h'}}",
        f"seed: 'https:/me:{WORD}{'x' * 70}@h'",
        f"'https:/me:{WORD}{'x' * 70}@h': 1",
        f"a: [https://me:{WORD}{'x' * 70}@h",
        f"a: !x:{WORD}{'x' * 70}@h",
    ],
)
def test_no_error_of_a_recipe_shows_a_secret_that_its_own_shortening_has_cut(command: Command, text: str) -> None:
    path = command.place / "mine.yaml"
    path.write_text(f"extends: digits\nname: mine\n{text}\n")
    for verb in ("compile", "show"):
        said = command(verb, str(path))
        assert WORD not in said.out + said.err
        assert said.status == 2 or verb == "show"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_login_in_a_foreign_file_is_not_printed_on_stdout_either(command: Command, options: tuple[str, ...]) -> None:
    import json

    import torch
    from safetensors.torch import save_file

    odd = {
        "https:/me": f"https:/me:{WORD}@h",
        "key": f"-----BEGIN PRIVATE KEY-----{WORD}",
        "long": f"{'x ' * 495}me:{WORD}@h",
    }
    header = {"sida": json.dumps({"network": {"architecture": f"s3//me:{WORD}@h"}, "licence": ADDRESS, **odd})}
    path = command.place / "odd.safetensors"
    save_file({f"me:{WORD}@host": torch.zeros(1)}, path, metadata=header)
    said = command("inspect", str(path), *options)
    assert (said.status, WORD in said.out + said.err) == (0, False)
    assert "***@127.0.0.1:1" in said.out
    if options:
        assert json.loads(said.out)["tensors"] == {"***@host": ["float32", 1]}


@pytest.mark.parametrize(
    "variable", ["SIDA_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "SIDA_STORE", "SIDA_MIRROR", "SIDA_CACHE"]
)
@pytest.mark.parametrize(
    "address", [f"https:/me:{WORD}@h", f"https:\\\\me:{WORD}@h", f"me:{WORD}@h", f"https://h/?x%26token={WORD}"]
)
def test_a_login_in_a_mistyped_setting_is_not_printed(
    command: Command, monkeypatch: pytest.MonkeyPatch, variable: str, address: str
) -> None:
    monkeypatch.chdir(command.place)
    monkeypatch.setenv(variable, address)
    if variable == "SIDA_S3_ENDPOINT":
        monkeypatch.setenv("SIDA_STORE", "s3://bucket/x")
    before = sorted(command.place.rglob("*"))
    for verb in (("doctor",), ("status",), ("track", "x")):
        said = command(*verb)
        assert WORD not in said.out + said.err
    assert [path for path in command.place.rglob("*") if path not in before and WORD in path.name] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "digits", "--store="),
        ("run", "digits", "--store", " "),
        ("run", "digits", "--rendezvous="),
        ("run", ""),
        ("status", ""),
        ("doctor", "--profile="),
        ("compile", "digits", "--output="),
        ("score", "x", "--recipe="),
        ("new", "x", "--teacher="),
    ],
)
def test_an_empty_value_does_not_mean_the_default(command: Command, arguments: tuple[str, ...]) -> None:
    assert "is empty: give a value" in command(*arguments).mistake()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("score", "PATH", "--recipe", "digits"), "not a file: give a safetensors file, a folder"),
        (("sample", "PATH", "--grid", "g.png"), "not a file"),
        (("inspect", "PATH"), "not a file"),
        (("convert", "PATH", "--output", "out"), "not a file"),
        (("export-webdataset", "PATH", "--output", "out"), "not a file"),
        (("run", "PATH"), "no recipe file"),
        (("compile", "digits", "--profile", "PATH"), "no profile file"),
    ],
)
def test_a_pipe_or_device_in_place_of_a_file_is_named_and_not_waited_for(
    command: Command, arguments: tuple[str, ...], words: str
) -> None:
    os.mkfifo(command.place / "pipe")
    for path in ("/dev/null", str(command.place / "pipe")):
        line = command(*(path if each == "PATH" else each for each in arguments)).mistake()
        assert path in line and "a pipe, socket or device" in line and words in line


def test_a_link_in_a_folder_that_is_scored_is_named_without_a_field_of_the_recipe(command: Command) -> None:
    (command.place / "real").mkdir()
    (command.place / "tree").mkdir()
    (command.place / "tree" / "in").symlink_to(command.place / "real")
    line = command("score", str(command.place / "tree"), "--recipe", "digits").mistake()
    assert f"{command.place}/tree/in: a link to a folder" in line and "dataset" not in line
    (command.place / "link").symlink_to(command.place / "real")
    line = command("score", str(command.place / "link"), "--recipe", "digits").mistake()
    assert f"{command.place}/link: holds 0 images" in line


def test_what_is_printed_for_kubectl_and_programs_is_not_changed_by_masking() -> None:
    from sida.masking import masked, without_secrets

    for path in sorted(ROOT.glob("**/*.y*ml")):
        if not {".venv", ".git", "node_modules"} & set(path.parts):
            text = path.read_text(encoding="utf-8")
            assert masked(text, {}) == text, path
    assert without_secrets({"a": [1, None, "s3//me:word@h"]}) == {"a": [1, None, "s3//***@h"]}
