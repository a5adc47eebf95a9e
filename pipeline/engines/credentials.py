"""How we log in to Kubeflow Pipelines: a bearer token, from a file or a variable, and a session's cookies.

Token files rotate (a service account's every hour): ours is read anew for each request, however long ``submit --wait`` takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.profile import Kfp
from sida.errors import UserError
from sida.settings import environment

TOKEN_VARIABLE = "KFP_TOKEN"  # noqa: S105 (a name)
# Both are kfp's own: its SDK looks there for a service account's token, which Kubeflow mounts into notebooks that ask for it.
PATH_VARIABLE, MOUNTED = "KF_PIPELINES_SA_TOKEN_PATH", "/var/run/secrets/kubeflow/pipelines/token"

Token = Callable[[], str]


def token_of(kfp: Kfp) -> Token | None:
    """Return what reads the token of a profile, or of the environment where the profile names none.

    The first of: ``kfp.token_file``, ``kfp.token_variable``, KFP_TOKEN, the file that KF_PIPELINES_SA_TOKEN_PATH names, a projected
    token of this pod. Each reading may raise UserError.
    """
    variables = environment()
    if kfp.token_file:
        return lambda: _read("kfp.token_file", kfp.token_file or "")
    if kfp.token_variable:
        return lambda: variable("kfp.token_variable", kfp.token_variable) or ""
    if kfp.cookies_variable:
        return None
    if variables.get(TOKEN_VARIABLE):
        return lambda: environment()[TOKEN_VARIABLE].strip()
    if path := variables.get(PATH_VARIABLE):
        return lambda: _read(PATH_VARIABLE, path)
    return (lambda: _read("token", MOUNTED)) if Path(MOUNTED).exists() else None


def renewing(token: Token) -> Callable[[Any], None]:
    """Return the hook by which kfp's configuration gets its token; while none can be read, the last one stays."""

    def renew(configuration: Any) -> None:
        with suppress(UserError):
            configuration.api_key["authorization"] = token()

    return renew


def variable(field: str, name: str | None) -> str | None:
    """Return the value of the environment variable that a profile names. Raises UserError where it is not set."""
    if name is None:
        return None
    value = environment().get(name)
    if not value:
        raise UserError(
            f"{field}: the environment variable {name} is not set: export it, or take the field out of the profile"
        )
    return value


def _read(field: str, path: str) -> str:
    try:
        token = Path(os.path.expanduser(path)).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"{field} {path}: {error.strerror}: write the token there") from error
    if not token:  # as it is while somebody writes it
        raise UserError(f"{field} {path} is empty: write the token there")
    return token
