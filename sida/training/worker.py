"""What torchrun starts, here and on a cluster: ``torchrun -m sida.training.worker --job KEY``.

KEY names a job's spec in the store (``sida.launch.job``). Rank 0 publishes the result under the launcher's lease.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from sida import progress
from sida.errors import SidaError
from sida.launch.abandoned import end_when_abandoned
from sida.launch.parent import die_with_parent
from sida.settings import environment, settings
from sida.stores import open_store
from sida.training.job import Job


def _kinds() -> dict[str, Callable[[Job], dict[str, Any]]]:
    from sida.scoring.measure import measure
    from sida.training.loop import distil
    from sida.training.teach import teach

    return {"distill": distil, "score": measure, "teach": teach}


def main(arguments: list[str] | None = None) -> int:
    """Run one process of a job."""
    parser = argparse.ArgumentParser(prog="python -m sida.training.worker", description=__doc__)
    parser.add_argument("--job", required=True, help="key of the job's spec in the store (SIDA_STORE)")
    key = parser.parse_args(arguments).job
    die_with_parent()
    store = open_store(settings().store)
    spec = json.loads(store.read(key))
    if (launch := spec.get("launch")) and int(environment().get("RANK", "0")) == 0:
        end_when_abandoned(store, spec["step"], spec["lease"]["key"], launch["abandoned_seconds"])

    from sida.training.processes import joined

    try:
        with joined() as processes:
            job = Job(spec, store, processes)
            result = _kinds()[spec["kind"]](job)
            if processes.first:
                job.publish("result.json", json.dumps(result, indent=1).encode())
            processes.barrier()
    except SidaError as error:
        progress.error(spec["step"], str(error), error.exit_code)
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
