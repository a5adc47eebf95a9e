"""A process of a job, ``python -m sida.worker --job KEY``: our launcher starts it here, torchrun on a cluster.

KEY names a job's spec in the store (``sida.launch.job``). Rank 0 publishes the result under the launcher's lease.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any

from sida import patience, progress
from sida.disk import full_disk
from sida.errors import Lost, NotFound, SidaError, UserError
from sida.launch.abandoned import end_when_abandoned
from sida.launch.job import RESULT
from sida.launch.spec import outcome_file, parse_job
from sida.launch.worker_error import WorkerError, forget_end, tell
from sida.layout import step_of_job
from sida.manifests import Part
from sida.printing import one_line
from sida.process.parent import die_with_parent
from sida.settings import environment, settings
from sida.steps.recipes import recipe_at
from sida.stores import open_store
from sida.worker.job import Job
from sida.worker.layout import note_layout
from sida.worker.trainer_status import reported

RESTART_SECONDS, LONGEST_RESTART_SECONDS = 5.0, 60.0  # the pause after the first restart, doubling

# Who has lost the others ends so much later: were it seen before the pod that was taken off its node, a failure would be counted.
LOST_SECONDS = 10.0


# Kind of job -> the function that does one process's share of it, imported (with torch) when it is called.
ENTRIES = {
    "distill": "sida.training.distill_loop:distill",
    "encode": "sida.data.encode:encode",
    "reference": "sida.scoring.reference_job:reference",
    "score": "sida.scoring.measure:measure",
    "teach": "sida.training.teach_loop:teach",
}


def work(job: Job[Any]) -> Part | None:
    """Do one process's share of a job; the first process returns its outcome."""
    module, _, function = ENTRIES[job.spec.kind].partition(":")
    outcome: Part | None = getattr(importlib.import_module(module), function)(job)
    return outcome


def main(arguments: list[str] | None = None) -> int:
    """Run one process of a job."""
    parser = argparse.ArgumentParser(prog="python -m sida.worker", description=__doc__)
    parser.add_argument("--job", required=True, help="key of the job's spec in the store (SIDA_STORE)")
    key = parser.parse_args(arguments).job
    die_with_parent()
    step = one_line(step_of_job(key))
    progress.work_on(step)
    if environment().get("LOCAL_RANK", "0") != "0":
        patience.be_silent()
    try:
        _run(key)
    except Exception as error:
        tell(WorkerError.of(error, settings().restart))
        _end_if_known(step, error)
        raise
    return 0


def _is_lost(error: Exception) -> bool:
    """Return whether another process of the job is gone, as far as torch tells."""
    from torch.distributed import DistError

    gone = re.search(r"onnection (closed|reset|refused)|[Ss]ocket|gloo|NCCL", str(error))
    return isinstance(error, Lost | DistError) or (isinstance(error, RuntimeError) and gone is not None)


def _end_if_known(step: str, error: Exception) -> None:
    """Say why we fail and end with its status, unless it is a surprise, which ends in a traceback."""
    known = error if isinstance(error, SidaError) else full_disk(error)
    if known is None:
        return
    with suppress(OSError):  # the log's disk may be full
        if not isinstance(known, Lost):
            progress.error(step, str(known), known.exit_code)
        print(known, file=sys.stderr)
    raise SystemExit(known.exit_code) from error


def _run(key: str) -> None:
    here = settings()
    if here.restart:  # JobSet starts pods again at once: what ended them may need a moment
        time.sleep(min(RESTART_SECONDS * 2 ** (here.restart - 1), LONGEST_RESTART_SECONDS))
    store = open_store(here.store)
    try:
        file = parse_job(store.read(key), store.address_of(key))
    except NotFound as error:
        raise UserError(f"{store.address_of(key)}: no job is there: check --job and SIDA_STORE") from error
    if file.launch is not None and int(environment().get("RANK", "0")) == 0:
        forget_end(store, key, here.restart)
        end_when_abandoned(store, file.step, file.lease.key, file.launch.abandoned_seconds)

    from sida import devices
    from sida.worker.ranks import joined

    recipe = recipe_at(f"{file.recipe.key}#sha256={file.recipe.sha256}", store)
    if recipe.execution.deterministic:
        devices.be_deterministic()
    with joined(timedelta(seconds=here.timeout + here.patience)) as processes:  # one of us may wait for the store
        job: Job[Any] = Job(file, recipe, store, processes)
        try:
            if processes.first:
                note_layout(job)
            with reported(file.step) if processes.first else nullcontext():
                outcome = work(job)
            if outcome is not None:
                job.publish(RESULT, outcome_file(job.folder, job.spec, outcome))
            processes.meet()
        except Exception as error:
            job.fail(error, here.restart)  # before the others notice that we are gone
            if file.launch is not None and job.several_nodes and _is_lost(error):
                time.sleep(LOST_SECONDS)
            _end_if_known(file.step, error)
            raise
