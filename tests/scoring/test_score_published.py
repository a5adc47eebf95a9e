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
    """Paths of four recipes, and the digest of their detector."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    detector = write_files(place / "served")
    with https(place / "served", place) as (address, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield write_recipes(place, place / "served", address, detector), detector


ROWS = ("Stand-in uncond", "Stand-in cond", "Stand-in gone")


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
    _, err = run("score-published", names[0], status=2)  # the detector's code runs for nobody who did not ask for it
    assert err.splitlines()[-1].startswith("error: ") and f"--trust-detector {detector}" in err
    out, err = run("score-published", *names, "--trust-detector", detector, status=2)
    heading, *lines = out.splitlines()
    for column in ("benchmark", "published", "ours", "95% interval", "verdict", "cost"):
        assert column in heading
    row = {name: next(line for line in lines if line.startswith(name)) for name in ROWS}
    assert "100" in row["Stand-in uncond"] and "better" in row["Stand-in uncond"]
    assert "0.001" in row["Stand-in cond"] and "worse" in row["Stand-in cond"] and "alpha 1" in row["Stand-in cond"]
    assert "failed" in row["Stand-in gone"] and "score-published ddpmpp-gone" in row["Stand-in gone"]
    at = lines.index(row["Stand-in cond"])  # two files could be that row: both stand under it
    assert "sid2a (alpha 1)" in lines[at + 1] and "sid2a (alpha 1.2)" in lines[at + 2]
    assert all("images/s" in line and "+- " in line for line in (row["Stand-in uncond"], *lines[at : at + 3]))
    waiting = [line for line in lines if "not scored" in line]  # the paper's ten rows, with what fills them
    assert len(waiting) == 10 and all("sida score-published " in line for line in waiting)
    assert "2 of 13 rows scored: 1 better, 0 within, 1 worse" in out
    assert "failed: ddpmpp-gone: fetch_released: " in out
    assert "1 of 4 generators could not be scored: ddpmpp-gone: fetch_released: " in err.splitlines()[-1]
    assert not (ROOT / "PWNED").exists()  # what the pickles would have done, had anything in them run

    out, err = run("score-published", names[1], "--trust-detector", detector, "--json")
    again = json.loads(out)
    assert [row["n"] for row in again["rows"]] == [40] and not again["failed"]
    assert all(" ran " not in line for line in err.splitlines() if "published_table" not in line)  # all is reused

    score = next(iter((place / "store" / "steps" / "score").glob("*/1.json")))
    out, _ = run("verify", f"file://{score}")
    assert "objects are what they were" in out

    _, whole, last = sorted(path.name for path in (place / "store" / "runs").iterdir() if (path / "steps").exists())
    records = {path.stem for path in (place / "store" / "runs" / whole / "steps").glob("*.json")}
    assert {"fetch_released.ddpmpp-uncond", "score_data.ddpmpp-cond", "fetch_released.ddpmpp-gone"} <= records
    out, _ = run("rerun", last, "score.ddpmpp-cond", "--local")
    assert "/steps/score/" in out
    out, err = run("rerun", whole, "published_table", "--local", "--force", status=2)
    assert out.startswith("table\t") and "2 of 13 rows scored: 1 better, 0 within, 1 worse" in err
    assert "1 of 4 generators could not be scored: ddpmpp-gone" in err
