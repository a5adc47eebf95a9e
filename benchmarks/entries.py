"""Preparing archives of very many small entries: in time that is linear in them, and in 2 GiB.

Zips of EDM2's latents with entries of 256 bytes, a quarter of ``--count``, half and all of it (1.28 million is ImageNet).
Exits with 1 where the peak is above 2 GiB, or an entry of the second half costs more than 1.3 times the processor time of one
of the second quarter.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.making_data import latents_zip

GIB, GROWTH = 2**30, 1.3
CODE = """
import re, resource, sys
from pathlib import Path
from benchmarks.data import prepare, section
latents = {"vae": "stabilityai/sd-vae-ft-mse", "licence": "-", "image_resolution": 16}
dataset = section("edm-zip", Path(sys.argv[1]), channels=4, resolution=2, classes=1000, latents=latents)
made = prepare(dataset).manifest.result
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # ru_maxrss may be that of who started it
print("made", made.count, sum(each.ru_utime + each.ru_stime for each in used), peak)
"""


class Cost(NamedTuple):
    """Of one preparation in a fresh process: processor seconds of all, and its own peak, which grows with the entries, in bytes."""

    count: int
    seconds: float
    peak: int


def cost(count: int, work: Path) -> Cost:
    """Make a zip and prepare it."""
    path = latents_zip(work / "latents.zip", count)
    with tempfile.TemporaryDirectory(dir=work) as store:
        environment = {**os.environ, "SIDA_STORE": f"file://{store}/store", "SIDA_CACHE": f"{store}/cache"}
        command = [sys.executable, "-c", CODE, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"^made (\d+) ([\d.]+) (\d+)$", done.stdout, re.M)
    assert found is not None and int(found[1]) == count, done.stdout
    made = Cost(count, float(found[2]), int(found[3]) * 1024)
    print(f"{count:,} entries: {made.seconds:.1f} s of processor time, peak {made.peak / GIB:.2f} GiB", flush=True)
    return made


def each(before: Cost, after: Cost) -> tuple[float, float]:
    """Return what each further entry cost: microseconds, bytes."""
    more = after.count - before.count
    return (after.seconds - before.seconds) / more * 1e6, (after.peak - before.peak) / more


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entries", description=__doc__)
    parser.add_argument("--count", type=int, default=1_280_000, help="entries of the largest zip (default 1,280,000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sida-benchmark-") as folder:
        quarter, half, whole = (cost(args.count // part, Path(folder)) for part in (4, 2, 1))
    earlier, later = each(quarter, half), each(half, whole)
    for name, costs in (("second quarter", earlier), ("second half", later)):
        print(f"an entry of the {name}: {costs[0]:.0f} us, {costs[1]:,.0f} bytes")
    return 0 if whole.peak <= 2 * GIB and later[0] <= GROWTH * earlier[0] else 1


if __name__ == "__main__":
    sys.exit(main())
