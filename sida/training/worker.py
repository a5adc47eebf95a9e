"""What torchrun starts, here and on a cluster: ``torchrun -m sida.training.worker --job KEY``.

KEY names a job's spec in the store (``sida.launch.job``). Rank 0 publishes the result under the launcher's lease.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sida import patience, progress
from sida.errors import SidaError
from sida.launch.abandoned import end_when_abandoned
from sida.launch.parent import die_with_parent
from sida.layout import step_of_job
from sida.settings import environment, settings
from sida.stores import open_store
from sida.training.job import Job

RESTART_SECONDS, LONGEST_RESTART_SECONDS = 5.0, 60.0  # the pause after the first restart, doubling


def _kinds() -> dict[str, Callable[[Job], dict[str, Any]]]:
    from sida.data.latents import encode
    from sida.scoring.measure import measure
    from sida.scoring.reference_job import reference
    from sida.training.loop import distil
    from sida.training.teach import teach

    return {"distill": distil, "encode": encode, "reference": reference, "score": measure, "teach": teach}


def main(arguments: list[str] | None = None) -> int:
    """Run one process of a job."""
    parser = argparse.ArgumentParser(prog="python -m sida.training.worker", description=__doc__)
    parser.add_argument("--job", required=True, help="key of the job's spec in the store (SIDA_STORE)")
    key = parser.parse_args(arguments).job
    die_with_parent()
    step = step_of_job(key)
    progress.work_on(step)
    if environment().get("LOCAL_RANK", "0") != "0":
        patience.be_silent()
    try:
        _run(key)
    except SidaError as error:
        progress.error(step, str(error), error.exit_code)
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _run(key: str) -> None:
    here = settings()
    if here.restart:  # JobSet starts pods again at once: what ended them may need a moment
        time.sleep(min(RESTART_SECONDS * 2 ** (here.restart - 1), LONGEST_RESTART_SECONDS))
    store = open_store(here.store)
    spec = json.loads(store.read(key))
    if (launch := spec.get("launch")) and int(environment().get("RANK", "0")) == 0:
        end_when_abandoned(store, spec["step"], spec["lease"]["key"], launch["abandoned_seconds"])

    from sida import devices
    from sida.training.processes import joined

    if spec["recipe"]["execution"].get("deterministic"):
        devices.be_deterministic()
    with joined(timedelta(seconds=here.timeout + here.patience)) as processes:  # one of us may wait for the store
        job = Job(spec, store, processes)
        result = _kinds()[spec["kind"]](job)
        if processes.first:
            job.publish("result.json", json.dumps(result, indent=1).encode())
        processes.meet()


if __name__ == "__main__":
    sys.exit(main())
