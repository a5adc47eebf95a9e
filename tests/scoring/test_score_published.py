"""score_published end to end: https source, conversion, scores, table; with stand-ins of the published structure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.scoring.released import https, write_files, write_recipes


@pytest.fixture
def recipes(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Path], str]]:
    """Paths of two recipes, and the digest of their detector."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    detector = write_files(place / "served")
    with https(place / "served", place) as (address, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield write_recipes(place, place / "served", address, detector), detector


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow  # a dozen steps, each in processes of its own
@pytest.mark.skipif(not Path("/usr/bin/openssl").exists(), reason="needs openssl for a certificate")
def test_released_generators_are_fetched_converted_scored_and_compared(
    place: Path, recipes: tuple[list[Path], str]
) -> None:
    paths, detector = recipes
    names = [str(path) for path in paths]
    _, err = run("score_published", *names, status=2)  # the detector's code runs for nobody who did not ask for it
    assert err.splitlines()[-1].startswith("error: ") and f"--trust-detector {detector}" in err
    out, err = run("score_published", *names, "--trust-detector", detector)
    heading, *rows = out.splitlines()
    for column in ("benchmark", "published", "ours", "95% interval", "verdict", "cost"):
        assert column in heading
    assert "Stand-in ddpmpp_uncond" in rows[0] and "better" in rows[0] and "100" in rows[0]
    assert "Stand-in ddpmpp_cond" in rows[1] and "worse" in rows[1] and "0.001" in rows[1]
    assert all("images/s" in row and "+- " in row for row in rows[:2])
    assert not (ROOT / "PWNED").exists()  # what the pickles would have done, had anything in them run
    out, err = run("score_published", *names, "--trust-detector", detector, "--json")
    again = json.loads(out)
    assert [row["n"] for row in again["rows"]] == [40, 40]
    assert " ran " not in err  # everything was reused
    score = next(iter((place / "store" / "steps" / "score").glob("*/1.json")))
    out, _ = run("verify", f"file://{score}")
    assert "objects are what they were" in out
