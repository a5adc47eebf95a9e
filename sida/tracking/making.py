"""What MLflow would make twice, made once: its request is sent once, and where the answer is lost, what it made is looked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOKS = (0.0, 1.0, 3.0)  # seconds before each look
UNKNOWN = (
    "INTERNAL_ERROR",
    "RESOURCE_ALREADY_EXISTS",
)  # whether it was made: of a lost answer, and of another reconciler's


def find_or_make(find: Callable[[], T | None], make: Callable[[], T]) -> T:
    """Return what is there, else what ``make`` makes; ``bounded`` sends the requests of ``CREATES`` once.

    Raises MlflowException where it is not known whether it was made: the next time finds it, or makes it.
    """
    from mlflow.exceptions import MlflowException

    if (found := find()) is not None:
        return found
    try:
        return make()
    except MlflowException as error:
        if error.error_code not in UNKNOWN:
            raise
        for pause in LOOKS:
            time.sleep(pause)
            if (found := find()) is not None:
                return found
        raise
