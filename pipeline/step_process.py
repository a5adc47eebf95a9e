"""The process of one step: kfp's own executor, which ends with the processes that started it.

    python -m pipeline.step_process [arguments of kfp.dsl.executor_main]

It does not begin once the user has asked the run to stop.
"""

import signal

from pipeline.kfp_host import STOP_FILE
from sida.printing import guarded
from sida.process.parent import die_with_parent
from sida.settings import settings


def main() -> None:
    """Become the step."""
    die_with_parent()
    events = settings().events
    if events is not None and events.with_name(STOP_FILE).exists():
        raise SystemExit(128 + signal.SIGTERM)
    from kfp.dsl.executor_main import executor_main

    with guarded():  # its folder's log holds what it prints
        executor_main()


if __name__ == "__main__":
    main()
