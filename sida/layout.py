"""The layout of a store: every key that is written is built here, and every key that is taken apart.

    steps/<step>/<key>/<attempt>.json          a step's manifest, created once, never changed
                       latest                  the number of the newest attempt, which counts; for people: the attempts say it
    leases/<key held>/<number>.json            the holder of a key (``steps/<step>/<key>``, ``gc``); the highest number does
    jobs/<step>/<key>/<attempt>/               what an attempt's workers need and leave
        spec.json, result.json, log.txt
        checkpoints/<images>-<lease>.json      a checkpoint, which names its objects
        checkpoints/parts/<images>-<lease>-<rank>.json   one of them is whole; until the checkpoint is there
        samples/<images>.png                   pictures made on the way
        dumps/<images>.json                    what was there when a run was given up
        parts/<range>/<start>-<stop>.safetensors   sums of a range's images, until all are there
        batch.json                             the batch that was found to be fastest
        system.json                            samples of the machine's load, where they are asked for
        processes.json                         on how many processes and nodes it was worked on last
    runs/<run>/steps/<step>.json               a step's call in a run; <step> may be <step>.<item>
               logs/<step>.txt                 the end of its log
               jobs/<step>.json                where its job lies
               failures/<number>.json          a failure that was passed on in place of an input
               cancel.json, run.json           the request to end the run; how it ended
    data/<digest>/shard-<number>.json          a shard that has been converted; of a new attempt under attempt-<number>/
    series/<step>/<recipe's digest>/<time>-<key>-<attempt>.json   the scores of a recipe, in their order
    recipes/<sha256>/submitted.json            a recipe of one's own was given to a run; gc keeps it for a while
                     schedule-<digest>.json    it is a schedule's, until that is changed or deleted
    pins/<address's digest>.json               the sha256 of a file that was fetched without one
    cleanfid/<digest>.safetensors              statistics of a data set in clean-fid's features
    doctor/<random>                            written, read and deleted by ``doctor``
    objects/<two digits>/<sha256><suffix>      whatever is large: named by its content
    .tmp/                                      the store's own

Numbers in names are padded with zeros, so that keys sort by them.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath
from typing import NamedTuple

from sida.errors import UserError

STEPS, LEASES, JOBS, RUNS, RECIPES, OBJECTS = "steps/", "leases/", "jobs/", "runs/", "recipes/", "objects/"
# What lies at the top of a store
FOLDERS = (
    *(part.rstrip("/") for part in (STEPS, LEASES, JOBS, RUNS, RECIPES, OBJECTS)),
    *("data", "series", "pins", "cleanfid", "doctor", "nodes"),
)
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


# -- steps


class Attempt(NamedTuple):
    """One attempt of a step; ``key`` is 64 hex digits."""

    step: str
    key: str
    number: int


def step_folder(step: str, key: str) -> str:
    return f"{STEPS}{step}/{key}"


def manifest_key(step: str, key: str, attempt: int) -> str:
    return f"{step_folder(step, key)}/{attempt}.json"


def latest_key(folder: str) -> str:
    """Return the key of the number of the attempt that counts; ``folder`` is that of a step."""
    return f"{folder}/latest"


def manifest_key_in(address: str) -> str:
    """Return the key in the full address of a manifest, whichever store that names."""
    return STEPS + address.rpartition(f"/{STEPS}")[2]


def place_of(address: str) -> tuple[str, str]:
    """Return the store's address and the key in the full address of a manifest, a failure or an object; else two empty texts."""
    match = re.fullmatch(
        rf"(.*)/({STEPS}[^/]+/[0-9a-f]{{64}}/[0-9]+\.json|{RUNS}[^/]+/failures/[0-9]+\.json|"
        rf"{OBJECTS}[0-9a-f]{{2}}/[0-9a-f]{{64}}[^/]*)",
        address,
    )
    return (match[1] or "/", match[2]) if match else ("", "")


def attempt_at(key: str) -> Attempt | None:
    """Return the attempt whose manifest is at ``key``; None if something else is."""
    match = re.fullmatch(rf"{STEPS}([^/]+)/([0-9a-f]{{64}})/([0-9]+)\.json", key)
    return Attempt(match[1], match[2], int(match[3])) if match else None


# -- leases


def lease_folder(held: str) -> str:
    return f"{LEASES}{held}/"


def lease_key(held: str, number: int) -> str:
    return f"{lease_folder(held)}{number:08d}.json"


def lease_at(key: str) -> tuple[str, int] | None:
    """Return the key that is held, and the lease's number; None if something else is at ``key``."""
    match = re.fullmatch(rf"{LEASES}(.+)/([0-9]{{8}})\.json", key)
    return (match[1], int(match[2])) if match else None


def tracking_lease(benchmark: str) -> str:
    """Return the key that is held while MLflow is told of runs of a benchmark."""
    return f"tracking/{as_name(benchmark)}"


def as_name(title: str) -> str:
    """Return a title as one part of a path: itself, or a digest of one that holds a slash, a dot or the like, or is long."""
    return (
        title if re.fullmatch(r"[A-Za-z0-9_ ,()+-]{1,80}", title) else hashlib.sha256(title.encode()).hexdigest()[:32]
    )


# -- jobs


def job_folder(step: str, key: str, attempt: int) -> str:
    return f"{JOBS}{step}/{key}/{attempt}"


def job_file_at(key: str) -> tuple[Attempt, str] | None:
    """Return the attempt that a job's file belongs to, and its name in the job's folder; None if something else is at ``key``."""
    match = re.fullmatch(rf"{JOBS}([^/]+)/([^/]+)/([0-9]+)/(.+)", key)
    return (Attempt(match[1], match[2], int(match[3])), match[4]) if match else None


def step_of_job(key: str) -> str:
    return key.removeprefix(JOBS).partition("/")[0]


def checkpoint_name(images: int, lease: int) -> str:
    return f"checkpoints/{images:012d}-{lease:08d}.json"


def checkpoint_at(name: str) -> tuple[int, int] | None:
    """Return images and lease of a checkpoint's name in its job's folder; None for any other name."""
    match = re.fullmatch(r"checkpoints/([0-9]{12,18})-([0-9]{8,18})\.json", name)
    found = (int(match[1]), int(match[2])) if match else None
    return found if found and checkpoint_name(*found) == name else None


def checkpoint_part_name(images: int, lease: int, rank: int) -> str:
    return f"checkpoints/parts/{images:012d}-{lease:08d}-{rank:05d}.json"


def checkpoint_part_at(name: str) -> tuple[int, int, int] | None:
    """Return images, lease and rank of such a name in a job's folder; None for any other name."""
    match = re.fullmatch(r"checkpoints/parts/([0-9]{12,18})-([0-9]{8,18})-([0-9]{5,9})\.json", name)
    found = (int(match[1]), int(match[2]), int(match[3])) if match else None
    return found if found and checkpoint_part_name(*found) == name else None


def samples_name(images: int) -> str:
    return f"samples/{images:012d}.png"


def dump_name(images: int, rank: int = 0) -> str:
    return f"dumps/{images:012d}-{rank:05d}.json" if rank else f"dumps/{images:012d}.json"


SYSTEM_METRICS = "system.json"
PROCESSES = "processes.json"


def part_name(group: int, start: int, stop: int) -> str:
    return f"parts/{group:03d}/{start:08d}-{stop:08d}.safetensors"


# -- runs


def check_run_id(run: str) -> str:
    """Return ``run`` if it can be part of a key. Raises UserError otherwise."""
    if not re.fullmatch(RUN_ID, run):
        raise UserError(f"{run!r} is not a run's id: use letters, digits, '.', '_' and '-', as `status` prints it")
    return run


def run_folder(run: str) -> str:
    return f"{RUNS}{check_run_id(run)}/"


def run_at(key: str) -> str:
    """Return the run that a record belongs to."""
    return key.split("/")[1]


def calls_folder(run: str) -> str:
    return f"{run_folder(run)}steps/"


def call_key(run: str, step: str) -> str:
    """Return the key of a call; ``step`` may be ``step.item``, as in all of a run's keys."""
    return f"{calls_folder(run)}{step}.json"


def call_at(key: str) -> tuple[str, str] | None:
    """Return the run and the step whose call is at ``key``; None if something else is."""
    match = re.fullmatch(rf"{RUNS}([^/]+)/steps/([^/]+)\.json", key)
    return (match[1], match[2]) if match else None


def log_key(run: str, step: str) -> str:
    return f"{run_folder(run)}logs/{step}.txt"


def run_job_key(run: str, step: str) -> str:
    return f"{run_folder(run)}jobs/{step}.json"


def failure_key(run: str, number: int) -> str:
    return f"{run_folder(run)}failures/{number:02}.json"


def cancel_key(run: str) -> str:
    return f"{run_folder(run)}cancel.json"


def run_end_key(run: str) -> str:
    return f"{run_folder(run)}run.json"


# -- the rest


def data_folder(digest: str, attempt: int | None = None) -> str:
    """Return the folder of converted shards' records: shared by equal conversions, or one attempt's own."""
    return f"data/{digest}" + (f"/attempt-{attempt}" if attempt is not None else "")


def shard_key(folder: str, number: int) -> str:
    return f"{folder}/shard-{number:05d}.json"


def series_folder(step: str, recipe_digest: str) -> str:
    return f"series/{step}/{recipe_digest}/"


def series_key(attempt: Attempt, recipe_digest: str, created: str) -> str:
    """Return a key that sorts by time, then by step key, so that two scores of one second have an order. ``created``: ISO, UTC."""
    time = re.sub("[^0-9T]", "", created.partition("+")[0])
    return f"{series_folder(attempt.step, recipe_digest)}{time}-{attempt.key[:16]}-{attempt.number:04d}.json"


def submission_key(recipe_sha256: str) -> str:
    return f"{RECIPES}{recipe_sha256}/submitted.json"


def is_submission(key: str) -> bool:
    return re.fullmatch(rf"{RECIPES}[0-9a-f]{{64}}/submitted\.json", key) is not None


def schedule_record_key(recipe_sha256: str, schedule: str) -> str:
    """Return the key of the record that a schedule, named by the digest of its place and name, uses a recipe."""
    return f"{RECIPES}{recipe_sha256}/schedule-{schedule}.json"


def pin_key(name: str) -> str:
    return f"pins/{name}.json"


def cleanfid_key(digest: str) -> str:
    return f"cleanfid/{digest}.safetensors"


def doctor_key(name: str) -> str:
    return f"doctor/{name}"


# -- objects


def object_key(sha256: str, name: str = "") -> str:
    """Return ``objects/ab/ab...ef.pkl`` for content ``ab...ef`` of a file ``*.pkl``. Raises UserError for a bad digest."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UserError(f"{sha256!r} is not a sha256: expected 64 lower-case hex digits")
    suffix = PurePath(name).suffix
    if not re.fullmatch(r"\.[A-Za-z0-9_+-]{1,16}", suffix):
        suffix = ""
    return f"{OBJECTS}{sha256[:2]}/{sha256}{suffix}"


def is_object(key: str) -> bool:
    """Return whether ``object_key`` makes such a key: whatever else lies there is not ours to remove."""
    match = re.fullmatch(rf"{OBJECTS}([0-9a-f]{{2}})/([0-9a-f]{{64}})(\.[A-Za-z0-9_+-]{{1,16}})?", key)
    return match is not None and match[2].startswith(match[1])


def digest_at(key: str) -> str:
    """Return the sha256 in an object's key."""
    return key.rpartition("/")[2][:64]
