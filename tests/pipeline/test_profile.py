"""Profiles: typed, honest about images, and free of secrets."""

from __future__ import annotations

import pytest

from pipeline import profile, remote
from sida import recipe
from sida.settings import settings
from tests.pipeline.command import Command

DIGEST = "@sha256:" + "1" * 64


def volumes(inside: str) -> str:
    """The start of the profile's steps, with volumes for prepare_data."""
    return f"steps:\n  prepare_data:\n    volumes: [{inside}]\n"


@pytest.mark.parametrize("name", recipe.names(profile.PROFILES))
def test_the_profiles_of_the_project_are_valid_and_ask_for_their_images(name: str, command: Command) -> None:
    assert profile.load(name).description
    line = command("compile", "digits", "--profile", name).mistake()
    assert "images." in line and "sha256" in line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  memory: 2Gi", "  memry: 2Gi", ["default.memry", "'memory'"]),
        ("    shared_memory: 8Gi", "    shm: 8Gi", ["steps.distill.shm", "known here"]),
        ("    timeout_seconds: 86400", "    timeout: 86400", ["steps.distill.timeout", "'timeout_seconds'"]),
        ("  distill:\n", "  distil:\n", ["steps.distil", "'distill'"]),
        ("store: s3://bucket/sida", "stor: s3://bucket/sida", ["stor"]),
        ("store: s3://bucket/sida", "store: file:///tmp/store", ["store", "file:///tmp/store"]),
        ("  memory: 2Gi", "  memory: much", ["default.memory", "much"]),
        ("  memory: 2Gi", "  cpu_limit: '2'", ["default.cpu_limit", "give cpu too"]),
        ("    memory: 64Gi", "    cpu: '2'\n    cpu_limit: 1500m", ["distill.cpu_limit", "1500m is less than cpu, 2"]),
        ("  retries: 2", "  retries: -1", ["default.retries", "-1"]),
        ("host: http://127.0.0.1:1", "host: kubeflow", ["kfp.host", "https://"]),
        ("AWS_REGION: eu-central-1", "DB_PASSWORD: hunter2", ["env.DB_PASSWORD", "secrets"]),
        ("store: s3", "mlflow_ui: mlflow:5000\nstore: s3", ["mlflow_ui", "https://"]),
        ("store: s3", "mlflow_ui: 'http://u:hunter2@h'\nstore: s3", ["mlflow_ui", "browser"]),
        ("AWS_REGION: eu-central-1", "PROXY: 'http://u:hunter2@h'", ["env.PROXY", "secrets"]),
        (
            "  distill:\n",
            "  distill:\n    cache: {claim: c, storage_class: fast}\n",
            ["steps.distill.cache", "one of the two"],
        ),
        ("  memory: 2Gi", "  memory: 2Gi\n  cache: {storage_class: fast}", ["default.cache", "size", "50Gi"]),
        ("  memory: 2Gi", "  memory: 2Gi\n  cache: {size: lots}", ["default.cache.size", "lots"]),
        (
            "  memory: 2Gi",
            "  memory: 2Gi\n  cache: {claim: d}\n  volumes: [{claim: d, path: /data}]",
            ["default.volumes", "claim d twice"],
        ),
        ("steps:\n", volumes("{claim: d, path: data}"), ["prepare_data.volumes.0.path", "absolute", "'data'"]),
        ("steps:\n", volumes("{claim: d, path: /tmp/data}"), ["/tmp is the pod's own", "/data"]),
        ("steps:\n", volumes("{claim: d, path: /}"), ["below /"]),
        ("steps:\n", volumes("{claim: d, path: /data, folder: ../x}"), ["folder", "inside the volume"]),
        ("steps:\n", volumes("{claim: d, path: /data}, {claim: e, path: /data/}"), ["two at one path"]),
        ("steps:\n", volumes("{claim: D_1, path: /data}"), ["prepare_data.volumes.0.claim", "D_1"]),
        ("steps:\n", volumes("{claim: d, path: /data, read: true}"), ["read", "known here", "folder"]),
        (f"sida{DIGEST}", "sida:latest", ["images.cpu", "sida:latest", "--allow-tags"]),
        ("store: s3://bucket/sida", 'store: "s3://bucket/it\'s"', ["store", "it's"]),
        ("store: s3://bucket/sida", 'store: "s3://bucket/a\\n--b"', ["store"]),
        ("store: s3://bucket/sida", "store: 's3://bucket/{{=1}}'", ["store", "placeholder"]),
        ("AWS_REGION: eu-central-1", "X: '{{workflow.name}}'", ["env.X", "placeholder"]),
        ("store: s3", 'mlflow_ui: "http://h/\\x1b[2J"\nstore: s3', ["mlflow_ui", "cannot be printed"]),
        ("  memory: 2Gi", "  memory: 2Gi\n  node_selector: {'{{x}}': y}", ["a key of default.node_selector", "{{"]),
    ],
)
def test_a_mistake_in_a_profile_is_one_line_with_the_field(
    command: Command, old: str, new: str, words: list[str]
) -> None:
    line = command("compile", "digits", "--profile", command.profile((old, new))).mistake()
    assert all(word in line for word in (*words, "mine.yaml: ")), line
    assert "hunter2" not in line


def test_every_step_is_told_where_people_find_mlflow(command: Command) -> None:
    mine = profile.load(command.profile(("store: s3", "mlflow_ui: https://mlflow.example.org\nstore: s3")))
    assert mine.variables()["SIDA_MLFLOW_UI"] == "https://mlflow.example.org"


def test_an_image_by_its_tag_is_taken_with_a_warning_when_that_is_asked_for(command: Command) -> None:
    mine = command.profile((f"sida{DIGEST}", "sida:latest"))
    said = command("compile", "digits", "--profile", mine, "--allow-tags")
    assert said.status == 0
    assert "warning: images.cpu registry.test/sida:latest has no digest" in said.err
    assert "image: registry.test/sida:latest" in said.out


@pytest.mark.parametrize(
    ("name", "words"), [("laptop", ["'laptop-kind'"]), ("./nowhere.yaml", ["./nowhere.yaml", "check the path"])]
)
def test_a_profile_that_is_not_there_is_refused_with_those_there_are(
    command: Command, name: str, words: list[str]
) -> None:
    line = command("compile", "digits", "--profile", name).mistake()
    assert all(word in line for word in words)


@pytest.mark.parametrize(("written", "typed"), [("mine.yaml", "mine"), ("mine.yml", "mine"), ("kind-9", "kind-9")])
def test_a_profile_named_without_its_path_is_found_in_the_folder_and_suggested(
    command: Command, monkeypatch: pytest.MonkeyPatch, written: str, typed: str
) -> None:
    command.profile(name=written)
    monkeypatch.chdir(command.place)
    line = command("compile", "digits", "--profile", typed).mistake()
    assert f"no profile {typed!r}: did you mean the file ./{written}?" in line


def test_what_a_step_leaves_out_it_takes_from_the_default(command: Command) -> None:
    mine = profile.load(command.profile())
    assert mine.needs("distill").retries == 2
    assert mine.needs("distill").timeout_seconds == 86400
    assert mine.needs("compare") == mine.default


def test_steps_on_a_cluster_wait_for_a_quarter_of_an_hour_unless_the_profile_says_otherwise(command: Command) -> None:
    assert profile.load(command.profile()).variables()["SIDA_PATIENCE"] == "15m"
    longer = command.profile(("env: {", "env: {SIDA_PATIENCE: 1h, "), name="longer.yaml")
    assert profile.load(longer).variables()["SIDA_PATIENCE"] == "1h"


def test_a_command_on_this_machine_does_not_wait_as_long_as_the_pods(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIDA_PATIENCE", raising=False)
    with remote.using_store(profile.load(command.profile())):
        assert (settings().store, settings().patience) == ("s3://bucket/sida", 60.0)


def test_a_detector_that_is_trusted_by_the_profile_is_trusted_in_every_pod(command: Command) -> None:
    digest = "f" * 64
    path = command.profile(("env: {", f"env: {{SIDA_TRUST_DETECTOR: {digest}, "))
    said = command("compile", "digits", "--profile", path)
    assert said.status == 0, said.err
    assert said.out.count(digest) >= 3
