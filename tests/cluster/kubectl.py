"""kubectl as the tests call it: against the cluster that KUBECONFIG names, failing with what it said."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import yaml

Object = dict[str, Any]
Found = TypeVar("Found")
POLL_SECONDS = 1.0


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True, seconds: float = 180) -> str:
    """What it prints; with ``check`` a status other than 0 fails the test with its words, else they are part of the answer."""
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=seconds, check=False
    )
    if check:
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout
    return done.stdout + done.stderr


def apply(objects: list[Object], *more: str) -> str:
    """Apply objects; what kubectl says."""
    return kubectl("apply", "-f", "-", *more, stdin=yaml.safe_dump_all(objects))


def difference(objects: list[Object]) -> str:
    """What applying them would change on the server, as ``kubectl diff`` shows it; empty when nothing."""
    return kubectl("diff", "-f", "-", stdin=yaml.safe_dump_all(objects), check=False)


def create(text: str) -> str:
    """Create one object of a YAML text, as ``| kubectl create -f -`` does; its ``kind/name``."""
    return kubectl("create", "-f", "-", "-o", "name", stdin=text).strip()


def get(kind: str, name: str = "", *more: str, namespace: str) -> Any:
    """One object, or the list of those that ``more`` selects."""
    found = json.loads(kubectl("-n", namespace, "get", kind, *([name] if name else []), *more, "-o", "json"))
    return found if name else found["items"]


def until(what: str, look: Callable[[], Found | None], seconds: float = 180) -> Found:
    """The first thing that ``look`` finds; the test fails when there is none in time."""
    end = time.monotonic() + seconds
    while (found := look()) is None or found is False:
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(POLL_SECONDS)
    return found


@contextmanager
def forwarded(namespace: str, service: str, port: int, local: int) -> Iterator[str]:
    """``kubectl port-forward`` for as long as the block lasts, begun again whenever it breaks; yields the address here."""
    command = ["kubectl", "-n", namespace, "port-forward", f"svc/{service}", f"{local}:{port}"]
    loop = f"while true; do {' '.join(command)} >/dev/null 2>&1; sleep 0.5; done"
    process = subprocess.Popen(["sh", "-c", loop], start_new_session=True)
    try:
        yield f"http://127.0.0.1:{local}"
    finally:
        subprocess.run(["pkill", "-TERM", "-s", str(process.pid)], check=False)
        process.wait()


def log_of(pod: str, namespace: str, *more: str) -> str:
    """The log of a pod, as far as there is one."""
    return kubectl("-n", namespace, "logs", pod, *more, check=False)
