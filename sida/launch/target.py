"""Where and how a TrainJob is to run: what a profile says, handed to the launching step in the variable SIDA_TRAINJOB."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from sida.errors import UserError
from sida.launch.pod import Pod, Positive
from sida.manifests import Part, first_fault


class Target(Part):
    """One step's TrainJob on one cluster. The pod is that of one node; its threads are the recipe's."""

    namespace: str
    runtime: str
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    pod: Pod
    nodes: Positive = 1
    processes: Positive | None = None  # over all nodes; None: the recipe's
    queue: str = ""  # of Kueue
    priority_class: str = ""  # of Kueue, in its queue
    # What SIGTERM to the launching step does to the job.
    on_termination: Literal["delete", "suspend", "keep"] = "delete"
    grace_seconds: Positive | None = None  # of its pods; None: by the size of the recipe's checkpoints
    abandoned_seconds: Positive = 3600  # without a launching step the job ends itself after so long
    outage_seconds: Positive = 6 * 3600  # how long the API server may be away before the launching step gives up

    def per_node(self, processes: int) -> int:
        """Processes on each node, where the recipe has ``processes``. Raises UserError when they cannot be shared out evenly."""
        whose = "`processes` of the profile" if self.processes else "execution.processes of the recipe"
        processes = self.processes or processes
        if processes % self.nodes:
            raise UserError(
                f"{processes} processes ({whose}) cannot be shared out over {self.nodes} nodes: "
                f"make one a multiple of the other in recipe or profile"
            )
        return processes // self.nodes


def parse_target(text: str) -> Target:
    """Read what SIDA_TRAINJOB holds. Raises UserError that names the field."""
    if not text:
        raise UserError(
            "SIDA_LAUNCHER=trainjob needs SIDA_TRAINJOB: both come from a profile with `launcher: trainjob`"
        )
    try:
        return Target.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"SIDA_TRAINJOB: {first_fault(error, 'the text')}: compile the pipeline anew") from error
