"""Argo Workflows as the engine: WorkflowTemplates, Workflows and CronWorkflows through the Kubernetes API, as kubectl sees them.

Argo's own server is not needed. A run is a Workflow, and its id the Workflow's name.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import yaml

from pipeline.compile import Compiled, OnCluster
from pipeline.cron import five_fields
from pipeline.engines.argo_state import CANCELLED, TITLE, now, run_state
from pipeline.engines.argo_template import API_VERSION, one_step
from pipeline.engines.base import Engine, Schedule, Unreachable, Version
from pipeline.engines.run_state import RunState
from pipeline.profile import Profile
from sida.errors import SidaError, UserError
from sida.launch import cluster as kubernetes
from sida.launch.cluster import ApiRefused, Cluster, NoApi
from sida.launch.trainjob_manifest import PART
from sida.layout import check_run_id
from sida.records import StepCall

RUNS, VERSIONS, SCHEDULES = "workflows", "workflowtemplates", "cronworkflows"
DIGEST = "sida/sha256"  # annotation
OURS = ",".join(f"{name}={value}" for name, value in PART.items())
LONGEST_NAME = 50  # of a run or schedule: Argo appends to it, and it becomes a label
NOTICE_SECONDS, LOOK_SECONDS = 10.0, 0.5  # how long a controller may take to see a new object, and between two looks


class ArgoClient(Engine):
    """Connection to the Argo Workflows of one namespace."""

    def __init__(self, profile: Profile) -> None:
        self._profile, self._options = profile, profile.argo
        self._cluster = Cluster(profile.namespace, outage_seconds=10.0)
        self.place = f"namespace {profile.namespace}"

    # -- versions

    def upload(self, compiled: Compiled, description: str) -> Version:
        """Return the WorkflowTemplate of a compiled pipeline, whose name holds its digest; create it if it is not there."""
        template = yaml.safe_load(compiled.text)
        template["metadata"]["annotations"] |= {DIGEST: compiled.digest}
        with self._errors("create WorkflowTemplates"):
            try:
                self._cluster.create_object(VERSIONS, template)
            except ApiRefused as error:
                if error.status != 409:
                    raise
                return Version(compiled.version, compiled.version, new=False)
        return Version(compiled.version, compiled.version, new=True)

    # -- runs

    def start(self, name: str, version: Version, parameters: dict[str, str]) -> str:
        """Create the Workflow of an uploaded template.

        A controller knows of a new template a moment after the API server (seen: half a second), and ends what refers to it sooner.
        """
        end = time.monotonic() + NOTICE_SECONDS
        while True:
            run_id = self._start(name, version.name.rpartition("-")[0], self._of(version.version_id, parameters))
            if not version.new or not self._overlooked(run_id, version.version_id, end):
                return run_id
            with self._errors("delete Workflows"):
                self._cluster.delete_object(RUNS, run_id)

    def _overlooked(self, run_id: str, version: str, end: float) -> bool:
        """Wait until the controller has looked at a Workflow; return whether it did not see the template."""
        while True:
            status = self._workflow(run_id).get("status") or {}
            if status.get("phase") or time.monotonic() > end:
                break
            time.sleep(LOOK_SECONDS)
        return f'"{version}" not found' in str(status.get("message")) and time.monotonic() <= end

    def start_step(self, call: StepCall, title: str, arguments: list[str], cluster: OnCluster) -> str:
        """Create a Workflow of one template."""
        return self._start(title, f"sida-rerun-{call.step}", one_step(call, arguments, cluster, self._profile))

    def _start(self, title: str, stem: str, spec: dict[str, Any]) -> str:
        now = datetime.now(UTC)
        stem = re.sub("[^a-z0-9]+", "-", stem.removeprefix("sida-").lower()).strip("-")
        name = f"{stem[: LONGEST_NAME - 21].rstrip('-')}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        labels = PART | spec.get("workflowMetadata", {}).get("labels", {})
        metadata = {"name": name, "namespace": self._cluster.namespace, "labels": labels, "annotations": {TITLE: title}}
        workflow = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": metadata, "spec": spec}
        with self._errors("create Workflows"):
            try:
                self._cluster.create_object(RUNS, workflow)
            except ApiRefused as error:
                if error.status != 409:  # else an earlier request made it, whose answer was lost
                    raise
            except NoApi:
                if self._cluster.object(RUNS, name) is None:
                    raise
        return name

    @staticmethod
    def _of(version: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Return the spec of a run of a version."""
        values = [{"name": name, "value": value} for name, value in parameters.items()]
        return {"workflowTemplateRef": {"name": version}, "arguments": {"parameters": values}}

    def run(self, run_id: str) -> RunState:
        """Return the state of a Workflow. Raises UserError for one that is not there."""
        workflow = self._workflow(run_id)
        with self._errors("read Workflows"):
            return run_state(workflow)

    def _workflow(self, run_id: str) -> dict[str, Any]:
        with self._errors("read Workflows"):
            workflow = self._cluster.workflow(check_run_id(run_id))
        if workflow is None:
            raise UserError(
                f"no Workflow {run_id!r} in {self.place}: `status --profile` lists those there are; finished ones are kept for "
                f"{self._options.keep_seconds / 86400:g} days: `status` with SIDA_STORE shows older runs"
            )
        return workflow

    def runs(self, count: int) -> list[RunState]:
        """Return the newest runs of the namespace, without their tasks."""
        with self._errors("list Workflows"):
            workflows = self._cluster.objects(RUNS, OURS)
            workflows.sort(key=lambda workflow: str(workflow["metadata"].get("creationTimestamp")), reverse=True)
            return [run_state(workflow) for workflow in workflows[:count]]

    def terminate(self, run_id: str) -> None:
        """Have the controller stop the Workflow: its pods get SIGTERM, its exit handler still runs."""
        mark = {"metadata": {"annotations": {CANCELLED: now()}}, "spec": {"shutdown": "Stop"}}
        with self._errors("stop Workflows"):
            self._cluster.change_object(RUNS, run_id, mark)

    def link(self, run_id: str) -> str:
        """Return the page on Argo's server; without one the command that shows the Workflow."""
        if self._options.ui:
            return f"{self._options.ui.rstrip('/')}/workflows/{self._cluster.namespace}/{run_id}"
        return f"kubectl -n {self._cluster.namespace} get workflow {run_id}"

    # -- schedules

    def cron(self, text: str) -> str:
        """Return the five fields."""
        return five_fields(text)

    def schedule(self, name: str, cron: str, version: Version, parameters: dict[str, str]) -> Schedule:
        """Return the CronWorkflow that these make. Raises UserError for a name that Kubernetes does not take."""
        if not re.fullmatch(rf"[a-z0-9]([-a-z0-9]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
            raise UserError(
                f"--name {name!r}: a CronWorkflow is called so: at most {LONGEST_NAME} lower-case letters, digits and -"
            )
        return Schedule(name, cron, version.version_id, parameters)

    def schedules(self, name: str = "") -> list[Schedule]:
        """Return our CronWorkflows, or the one called ``name``."""
        with self._errors("list CronWorkflows"):
            there = [_schedule(item) for item in self._cluster.objects(SCHEDULES, OURS)]
        return [schedule for schedule in there if name in ("", schedule.name)]

    def put_schedule(
        self, target: Schedule, there: list[Schedule], same: Schedule | None, version: Version, description: str
    ) -> None:
        """Create the CronWorkflow, or change it: one call, so that there is one at every moment."""
        if same is not None:
            if not same.enabled:
                self.enable_schedule(target.name, True)
            return
        spec = {
            "schedules": [target.cron],
            "timezone": self._options.timezone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 0,  # a firing that was missed is not made up for
            "suspend": False,
            # How long runs are kept says their own ttlStrategy.
            "successfulJobsHistoryLimit": 100,
            "failedJobsHistoryLimit": 100,
            "workflowMetadata": {"labels": PART, "annotations": {TITLE: target.name}},
            "workflowSpec": self._of(target.version_id, target.parameters),
        }
        with self._errors("create CronWorkflows"):
            if there:
                self._cluster.change_object(SCHEDULES, target.name, {"spec": spec})
                return
            metadata = {"name": target.name, "namespace": self._cluster.namespace, "labels": PART}
            metadata |= {"annotations": {"workflows.argoproj.io/description": description}}
            schedule = {"apiVersion": API_VERSION, "kind": "CronWorkflow", "metadata": metadata, "spec": spec}
            self._cluster.create_object(SCHEDULES, schedule)

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete the CronWorkflow; its runs stay."""
        with self._errors("delete CronWorkflows"):
            self._cluster.delete_object(SCHEDULES, schedule_id)

    def enable_schedule(self, schedule_id: str, enabled: bool) -> None:
        """Suspend the CronWorkflow, or let it go on."""
        with self._errors("change CronWorkflows"):
            self._cluster.change_object(SCHEDULES, schedule_id, {"spec": {"suspend": not enabled}})

    # -- for doctor, and errors

    def found(self) -> str:
        """Return where Argo's objects are served; whether a controller watches the namespace only a run can tell."""
        with self._errors("list WorkflowTemplates"):
            self._cluster.objects(VERSIONS, OURS)
        return f"{self._cluster.host} serves Workflows in {self.place}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Raise as errors for the user what the cluster refuses, and what in its answers is none of a Workflow's."""
        try:
            with kubernetes.understood(self._cluster.host):
                yield
        except kubernetes.Unreachable as error:
            raise Unreachable(str(error)) from error
        except ApiRefused as error:
            raise self._refused(error, doing) from error

    def _refused(self, error: ApiRefused, doing: str) -> SidaError:
        if error.status in (401, 403):
            return UserError(
                f"not allowed to {doing} in {self.place} ({error}): have your account bound to the Role sida-argo-user "
                f"(docs/argo.md)"
            )
        if error.status == 404:
            return UserError(
                f"cannot {doing}: the cluster serves no Argo Workflows, or has no {self.place} ({error}): docs/argo.md"
            )
        return UserError(f"the cluster refused to {doing} in {self.place}: {error.status} {error}")


def _schedule(item: dict[str, Any]) -> Schedule:
    spec = item["spec"]
    of = spec.get("workflowSpec") or {}
    parameters = (of.get("arguments") or {}).get("parameters") or []
    return Schedule(
        name=item["metadata"]["name"],
        cron=" ".join(spec.get("schedules") or [str(spec.get("schedule") or "no cron")]),
        version_id=str((of.get("workflowTemplateRef") or {}).get("name") or ""),
        parameters={str(one["name"]): str(one.get("value", "")) for one in parameters},
        enabled=not spec.get("suspend"),
        schedule_id=item["metadata"]["name"],
    )
