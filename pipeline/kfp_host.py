"""The process that kfp's local runner lives in; started by ``pipeline.local``, never by hand.

python -m pipeline.kfp_host RUN_FOLDER COMPONENTS_PACKAGE
"""

import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.dag import build
from pipeline.plan import Plan
from sida.printing import one_line
from sida.process.parent import die_with_parent

STOP_FILE = "stopping"  # beside the events; once it is there no further step begins


def main(folder: Path, components: str) -> int:
    """Run the plan in ``folder``; return 0 when all steps ended well, 1 otherwise (they report why as events)."""
    die_with_parent()
    # The steps get the same SIGTERM and may be writing a checkpoint: we wait for them.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    from kfp import local

    plan = Plan.from_json((folder / "plan.json").read_text())
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "outputs"),
        workspace_root=str(folder / "tmp" / "workspace"),
        enable_caching=False,
    )
    pipeline = build(plan, components)
    _end_with_us(pipeline.pipeline_spec)
    try:
        pipeline(recipe=plan.address, repeat=plan.repeat)
    except RuntimeError as error:  # kfp's word for a step that ended with another status than 0
        print(one_line(str(error)), file=sys.stderr, flush=True)
        return 1
    return 0


def _end_with_us(spec: Any) -> None:
    """Start every step through ``pipeline.step_process`` rather than through the shell that kfp would leave in between."""
    plain = "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main"
    # kfp recognizes its components by the module's name, hence the shell comment.
    ours = '# calls kfp.dsl.executor_main\nexport _KFP_RUNTIME=true\nexec "python3" -m pipeline.step_process'
    for executor in spec.deployment_spec["executors"].values():
        command = executor["container"]["command"]
        script = command[2]
        assert plain in script, f"this kfp starts steps by another command: {script!r}"
        command[2] = script.replace(plain, ours)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
