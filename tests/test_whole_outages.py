"""A whole run whose store is away again and again: the same generator, digest for digest, and a user who is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.stores.outage import way_to
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY

TINY = ROOT / "tests" / "recipes" / "tiny.yaml"
AWAY_SECONDS, OPEN_SECONDS = 7.0, 5.0  # longer than what passes without a word
OUTAGES = 4


def run(place: Path, name: str, endpoint: str) -> tuple[dict[str, Any], str]:
    """What the run prints, and what it says."""
    environment = os.environ | {
        "SIDA_STORE": f"s3://{BUCKET}/{place.name}-{name}",
        "SIDA_S3_ENDPOINT": endpoint,
        "SIDA_RUNS": str(place / name),
        "SIDA_CACHE": str(place / f"cache-{name}"),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "SIDA_PATIENCE": "2m",
    }
    command = [sys.executable, "-m", "pipeline", "run", str(TINY), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)), done.stderr


@pytest.mark.slow
def test_a_run_through_several_outages_ends_with_the_undisturbed_generator(place: Path, s3_endpoint: str) -> None:
    undisturbed, _ = run(place, "undisturbed", s3_endpoint)
    over, times = threading.Event(), 0
    with way_to(s3_endpoint) as way:

        def disturb() -> None:
            nonlocal times
            while times < OUTAGES and not over.wait(OPEN_SECONDS):
                way.shut()
                times += 1
                over.wait(AWAY_SECONDS)
                way.open()

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            disturbed, said = run(place, "disturbed", way.endpoint)
        finally:
            over.set()
            disturbing.join()
    assert Path(disturbed["generator"]).name == Path(undisturbed["generator"]).name
    assert disturbed["scores"] == undisturbed["scores"]
    told = [match[1] for match in re.finditer(r"the store at \S+ is (away|back) ", said)]
    assert 2 <= len(told) <= 2 * times
    assert told == ["away", "back"] * (len(told) // 2)  # in turn, however many processes met it
    assert "urllib3" not in said and "Retry" not in said
