"""The commands of the cluster pages: those that need no server are run, of the others verb and flags are checked."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from scripts import reference
from tests.conftest import ROOT
from tests.manifests.render import MANIFESTS, kubectl
from tests.manifests.test_manifests import documented_secrets

PAGES = ("install", "argo", "secrets", "permissions", "backup", "troubleshooting")
HERE = {("create", "secret"), ("create", "namespace"), ("create", "configmap"), ("kustomize", "")}  # need no server
GLOBAL = {"-n", "-f", "-k", "-o"}


def commands(program: str) -> list[tuple[str, str]]:
    """(page, line) of every command of a program in the pages' blocks."""
    return [
        (page, line)
        for page in PAGES
        for block in re.findall(r"(?ms)^```$\n(.*?)^```$", (ROOT / "docs" / f"{page}.md").read_text())
        for line in block.splitlines()
        if line.startswith(f"{program} ")
    ]


def words(line: str) -> list[str]:
    """Of a command, without redirections."""
    return shlex.split(re.sub(r"\s[<>][\w./-]+$", "", line))


def verb_of(arguments: list[str]) -> tuple[str, str]:
    """("create", "secret"), ("apply", "")."""
    plain = [word for word in arguments if not word.startswith("-")]
    if arguments[0] == "-n":
        plain = plain[1:]
    verb = plain[0]
    sub = plain[1] if verb in ("create", "rollout", "auth") and len(plain) > 1 else ""
    return (verb, sub if sub in ("secret", "namespace", "configmap", "job", "status", "restart") else "")


@cache
def flags(verb: str, sub: str) -> str:
    """What kubectl says of a verb."""
    command = [kubectl(), verb, *filter(None, [sub]), *(["generic"] if sub == "secret" else []), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("page", "line"), commands("kubectl"))
def test_kubectl_takes_the_command(page: str, line: str, tmp_path: Path) -> None:
    arguments = words(line)[1:]
    verb, sub = verb_of(arguments)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    text = flags(verb, sub)
    for flag in (word.partition("=")[0] for word in own if word.startswith("-")):
        known = flag in GLOBAL or re.search(rf"(?m)^ +(-\w, )?{re.escape(flag)}=|^ +{re.escape(flag)}(,|=)", text)
        assert known, f"{page}: kubectl {verb} has no {flag}"
    if (verb, sub) in HERE:
        for word in arguments:
            if match := re.fullmatch(r"--from-file=[a-z-]+=(\./[a-z-]+)", word):
                (tmp_path / match[1]).write_text("value")
        if verb == "kustomize":
            arguments = [
                word.replace("manifests/overlays/mine", str(MANIFESTS / "overlays" / "kind")) for word in arguments
            ]
        else:
            arguments += ["--dry-run=client", "-o", "yaml"]
        done = subprocess.run([kubectl(), *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr


def test_the_pages_create_every_secret_with_the_keys_that_pods_read(tmp_path: Path) -> None:
    made: dict[str, set[str]] = {}
    for page, line in commands("kubectl"):
        if page == "secrets" and " create secret generic " in line:
            arguments = words(line)[1:]
            for word in arguments:
                if match := re.fullmatch(r"--from-file=[a-z-]+=(\./[a-z-]+)", word):
                    (tmp_path / match[1]).write_text("value")
            command = [kubectl(), *arguments, "--dry-run=client", "-o", "yaml"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
            secret = yaml.safe_load(done.stdout)
            made[secret["metadata"]["name"]] = set(secret["data"])
    assert made == documented_secrets()


def test_every_command_of_ours_is_one_that_exists() -> None:
    verbs = reference.verbs()
    for page, line in commands("sida"):
        _, verb, *arguments = words(line)
        flags = {word for word in arguments if word.startswith("--")}
        assert flags <= set(verbs[verb]._option_string_actions), f"{page}: {line}"


def test_every_file_that_the_pages_name_is_there() -> None:
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for path in re.findall(r"(?<![\w./-])(?:docs|manifests|scripts|profiles|images|tests|sida)/[\w./-]+\w", text):
            if "/mine" not in path and not path.startswith("sida/launch"):
                assert (ROOT / path).exists(), f"{page}: {path}"
