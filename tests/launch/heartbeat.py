"""A worker for tests: appends a line with its pid to a file ten times a second, or fails as told."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from sida.process.parent import die_with_parent


def talk(folder: Path, rank: str) -> None:
    """Add numbers with the other processes until there is a file ``enough``."""
    import torch

    from sida.worker.ranks import joined

    with joined(timedelta(seconds=60)) as processes:
        while not processes.agree((folder / "enough").exists()):
            ones = torch.ones(4)
            processes.sum_([ones])
            processes.meet()
            (folder / f"sum-{rank}").write_text(str(ones.tolist()))


def main(mode: str, folder: Path) -> None:
    die_with_parent()
    rank = os.environ["RANK"]
    if mode == "fail" and rank == "1":
        raise ValueError("the noise level must be positive")
    if mode == "mistake" and rank == "1":
        print("recipe digits has no teacher: add one", file=sys.stderr)
        sys.exit(2)
    if mode == "away" and rank == "1":
        print("cannot reach http://store: is the server running?", file=sys.stderr)
        sys.exit(75)
    if mode == "report":
        (folder / f"environment-{rank}").write_text(
            "\n".join(os.environ[name] for name in ("OMP_NUM_THREADS", "MASTER_ADDR", "WORLD_SIZE"))
        )
        return
    if mode == "say" and rank == "1":
        return
    if mode == "say":
        for line in (
            "beat: 5 of 10 images (50%)",
            "not for people",
            "beat: error: told at the end",
            "beat: unfinished",
        ):
            print(line, file=sys.stderr, end="" if "unfinished" in line else "\n", flush=True)
        return
    if mode == "bus" and rank == "0":
        os.kill(os.getpid(), signal.SIGBUS)
    if mode == "talk":
        talk(folder, rank)
        return
    if mode == "helper":  # a process that knows nothing of parents, as a data loader's might
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    for beat in range(600):
        with (folder / f"beats-{rank}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.1)
        if mode == "helper" and beat == 3:
            return


if __name__ == "__main__":
    mode, _, folder = sys.argv[2].partition(":")  # --job MODE:FOLDER
    main(mode, Path(folder))
