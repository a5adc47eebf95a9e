"""Why a job's workers failed, in their own words: ``error.json`` beside its spec, by the worker that failed first."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from sida import patience
from sida.errors import SidaError, StoreError
from sida.masking import masked
from sida.settings import environment
from sida.stores import ObjectStore

NAME = "error.json"
LONGEST = 400  # characters of a message


class WorkerError(BaseModel):
    """One error, of one start of the job."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    kind: str  # the exception's class
    message: str
    exit_code: int
    restart: int = 0  # of the pods

    @classmethod
    def of(cls, error: Exception, restart: int) -> WorkerError:
        """Word an exception in a line; what is not ours is named."""
        kind, words = type(error).__name__, " ".join(str(error).split())
        if not isinstance(error, SidaError):
            words = f"{kind}: {words}".removesuffix(": ")[:LONGEST]
        code = getattr(error, "exit_code", SidaError.exit_code)
        return cls(kind=kind, message=masked(words, environment()), exit_code=code, restart=restart)


def error_key(job: str) -> str:
    """Return its key, beside that of the job's spec."""
    return f"{job.rpartition('/')[0]}/{NAME}"


def read_error(store: ObjectStore, job: str) -> WorkerError | None:
    """Return what the workers of a job left, by its spec's key; None where there is nothing, or the store is away."""
    try:
        with patience.impatient():
            return WorkerError.model_validate_json(store.read(error_key(job)))
    except (StoreError, ValidationError):
        return None
