"""When a step's sources change, somebody decides whether its version changes: results of another code are reused only on purpose.

After a change run ``python -m tests.test_step_versions``: it writes the new digests. Raise ``version`` in the step's
decorator first if equal inputs now give another result.
"""

from __future__ import annotations

import json
from pathlib import Path

from sida.registry import EVERY_STEP

RECORD = Path(__file__).with_name("step_versions.json")


def current() -> dict[str, dict[str, str | int]]:
    own = {name: step for name, step in sorted(EVERY_STEP.items()) if step.choose is None}
    return {name: {"version": step.version, "code": step.code()} for name, step in own.items()}


def test_a_change_of_a_step_s_code_comes_with_a_decision_on_its_version() -> None:
    recorded = json.loads(RECORD.read_text())
    changed = [name for name, step in current().items() if recorded.get(name) != step]
    assert not changed, (
        f"the code of {', '.join(changed)} changed: raise its version if equal inputs now give another result, "
        f"then run `python -m tests.test_step_versions`"
    )


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
