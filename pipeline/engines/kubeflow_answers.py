"""What Kubeflow Pipelines answers, checked where it comes in: ids are ids, and each field that is read is of its type."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline.engines.run_state import UNSPECIFIED
from sida.launch.shapes import NAME
from sida.printing import one_line
from sida.shapes import Needed, Shape, misshapen

_STATE = re.compile("PENDING|RUNNING|SUCCEEDED|SKIPPED|FAILED|CANCELING|CANCELED|PAUSED")
# Of a task that has not begun, and of history: nothing waits for these.
_ANY_STATE = re.compile(f"{_STATE.pattern}|{UNSPECIFIED}")
_ID = Needed(NAME)
_ERROR = {"message": str}
_RUN = {
    "run_id": _ID,
    **dict.fromkeys(("display_name", "experiment_id", "created_at"), str),
    "state": _STATE,
    "error": _ERROR,
    "state_history": [{"state": _ANY_STATE, "update_time": str}],
    "run_details": {
        "task_details": [{"display_name": str, "state": _ANY_STATE, "end_time": str, "error": _ERROR}],
    },
}
_PIPELINE = {"pipeline_id": _ID, "display_name": str, "name": str}
_VERSION = {"pipeline_version_id": _ID, "pipeline_id": str, "display_name": str}
_EXPERIMENT = {"experiment_id": _ID, "display_name": str}
_RECURRING = {
    "recurring_run_id": _ID,
    "status": re.compile("ENABLED|DISABLED|STATUS_UNSPECIFIED"),
    **dict.fromkeys(("display_name", "experiment_id", "service_account", "pipeline_version_id"), str),
    "trigger": {"cron_schedule": {"cron": str}},
    "pipeline_version_reference": {"pipeline_version_id": str},
    "runtime_config": {"parameters": {}, "pipeline_root": str},
}
_MORE = {"next_page_token": str}
ANSWERS: dict[str, Shape] = {  # by the name of the client's model
    "V2beta1Run": _RUN,
    "V2beta1Pipeline": _PIPELINE,
    "V2beta1PipelineVersion": _VERSION,
    "V2beta1Experiment": _EXPERIMENT,
    "V2beta1RecurringRun": _RECURRING,
    "V2beta1ListRunsResponse": {"runs": [_RUN], **_MORE},
    "V2beta1ListPipelinesResponse": {"pipelines": [_PIPELINE], **_MORE},
    "V2beta1ListPipelineVersionsResponse": {"pipeline_versions": [_VERSION], **_MORE},
    "V2beta1ListExperimentsResponse": {"experiments": [_EXPERIMENT], **_MORE},
    "V2beta1ListRecurringRunsResponse": {"recurringRuns": [_RECURRING], **_MORE},
}


class Strange(Exception):
    """An answer that Kubeflow Pipelines does not give; ``said`` is what it says, as JSON has it."""

    def __init__(self, why: str, said: Any) -> None:
        super().__init__(why)
        self.said = said


def check_answers(api: Any) -> None:
    """Have a client of kfp_server_api's raise Strange for an answer of another shape, and for whatever its parser meets in one."""
    deserialize = api.deserialize

    def checked(response: Any, model: str) -> Any:
        said = _json(response.data)
        if model in ANSWERS and (fault := misshapen(said, Needed(ANSWERS[model]))):
            raise Strange(fault, said)
        try:
            return deserialize(response, model)
        except Exception as error:  # of the client and the parsers below it, which meet whatever was sent
            raise Strange(one_line(f"{type(error).__name__}: {error}", 100), said) from error

    api.deserialize = checked


def check_asked(item: Any, **asked: str) -> Any:
    """Return an item of an answer if its fields, where it has them, say what was asked for. Raises Strange for another one."""
    for field, value in asked.items():
        if (found := getattr(item, field, None)) and found != value:
            raise Strange(one_line(f"{field} {found} in place of {value}", 100), None)
    return item


def id_in(said: Any) -> str:
    """Return the run's id in an answer of which something else is wrong; empty where there is none."""
    run_id = said.get("run_id") if isinstance(said, dict) else None
    return run_id if isinstance(run_id, str) and NAME.fullmatch(run_id) else ""


def _json(body: Any) -> Any:
    try:
        return json.loads(body)
    except (TypeError, ValueError, RecursionError):
        return body  # as the client does
