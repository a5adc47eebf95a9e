"""Scores by real torchrun workers: the same bits on one process and on two, and after kill -9 in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sida.manifests import Score, parse_manifest
from tests.conftest import ROOT
from tests.scoring.conftest import ASSET, tiny
from tests.scoring.conftest import make_inputs as made_here

COUNT = 600
SCRIPT = "from tests.scoring.test_world_size import score_in_a_process as f; import sys; print(f(*sys.argv[1:]))"


def score_in_a_process(generator: str, dataset: str, reference: str, repeat: str) -> str:
    """Score over two ranges through torchrun; the address of the score."""
    from sida.scoring.score import score

    recipe = tiny(evaluation={"images": COUNT, "ranges": 2, "extra_metrics": ["kid"]}, execution={"sampling_batch": 3})
    return score(recipe=recipe, generator=generator, reference=reference, repeat=repeat).address


def started(inputs: tuple[str, ...], workers: int, repeat: str) -> subprocess.Popen[str]:
    environment = os.environ | {"SIDA_WORKERS": str(workers), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, *inputs, repeat]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def rows(process: subprocess.Popen[str]) -> list[Score]:
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    manifest = parse_manifest(Path(out.strip().splitlines()[-1].removeprefix("file://")).read_bytes(), "score")
    return list(manifest.measured)


def worker_at_work(folder: Path, parts: int) -> int:
    """The id of a scoring worker, once so many parts of the range are in the store."""
    until = time.monotonic() + 400
    while time.monotonic() < until:
        if len(list(folder.glob("score/*/1/parts/*/*.safetensors"))) >= parts:
            for name in filter(str.isdigit, os.listdir("/proc")):
                try:
                    line = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                    here = str(folder.parent).encode() in Path(f"/proc/{name}/environ").read_bytes()
                except OSError:
                    continue
                if here and b"sida.worker" in line and b"--job" in line and b"torch.distributed.run" not in line:
                    return int(name)
        time.sleep(0.02)
    raise AssertionError("no worker wrote a part")


@pytest.mark.slow  # four starts of torch in processes of their own
def test_a_score_has_the_same_bits_on_one_process_on_two_and_after_kill_9(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_here(here, tiny())
    inputs = (made.generator, made.dataset, made.reference)
    assert ASSET.exists()
    one = rows(started(inputs, 1, "one"))
    two = rows(started(inputs, 2, "two"))
    assert [row.metric for row in one] == ["fd_digits", "kid_digits"]
    assert all(len(row.values) == 2 and row.n == COUNT for row in one)
    assert [row.values for row in two] == [row.values for row in one]

    jobs = here / "store" / "jobs"
    killed = started(inputs, 2, "killed")
    os.kill(worker_at_work(jobs, 3), signal.SIGKILL)
    out, _ = killed.communicate(timeout=500)
    assert killed.returncode != 0 and not out.strip()
    parts = {path: path.stat().st_mtime_ns for path in jobs.glob("score/*/1/parts/*/*.safetensors")}
    assert 3 <= len(parts) < 16  # of two ranges of eight
    kept = {path: path.read_bytes() for path in parts}
    again = started(inputs, 1, "killed")  # on fewer processes than before
    seen_again = True
    while again.poll() is None:
        for path, before in parts.items():
            try:
                seen_again &= path.stat().st_mtime_ns == before
            except FileNotFoundError:
                pass  # merged, and tidied up
        time.sleep(0.02)
    assert seen_again and kept  # what was there was not made a second time
    assert [row.values for row in rows(again)] == [row.values for row in one]
