"""A stand-in for the API server of Kubeflow Pipelines 2: real HTTP, and strict about what it is sent.

Every body is read into kfp_server_api's own model and written out again: what the model does not know is lost on the way and the
request is refused, as the real server refuses unknown fields. Pipelines are parsed into KFP's own protobuf messages. It keeps
pipelines, versions, experiments, runs and recurring runs in memory; a run moves on each time it is asked for.

What it says of runs has the shape of what Kubeflow Pipelines 2.17.0 said (``facts/``, six whole answers): tasks come with Argo's
children ``NAME(0)``, ``NAME-driver`` and ``executor``; one that has not begun has no state; nothing has an error text; a run that
was cancelled is CANCELING for a while and then FAILED. ``[[ScheduledTime]]`` is never expanded.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

BASE = "/apis/v2beta1/"
FACTS = Path(__file__).with_name("facts")
# What the exit handler was given at the end of runs that ended so; never SUCCEEDED, never a message.
EXIT_WORDS = {
    "succeeded": "COMPLETE",
    "failed": "FAILED",
    "oom": "FAILED",
    "driver-failed": "RUNNING",
    "cancelled": "RUNNING",
}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def checked(body: Any, model: str) -> Any:
    """The body as kfp_server_api's model reads it. Raises Refused when it is not one."""
    client = kfp_server_api.ApiClient()
    try:
        read = client._ApiClient__deserialize(body, model)  # type: ignore[attr-defined]
        again = json.loads(json.dumps(client.sanitize_for_serialization(read)))
    except (ValueError, TypeError, AttributeError, kfp_server_api.ApiException) as error:
        raise Refused(400, f"not a {model}: {error}") from error
    if again != body:
        raise Refused(400, f"not a {model}: {body} reads as {again}")
    return read


def check_pipeline(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """IR YAML into KFP's messages; the merged spec as the server keeps it."""
    try:
        json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        for platform in documents[1:]:
            json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise Refused(400, f"not a pipeline: {error}") from error
    _check_artifacts(documents[0])
    return {"pipeline_spec": documents[0], "platform_spec": documents[1:]}


def _check_artifacts(spec: dict[str, Any]) -> None:
    """Refuse one artifact on two inputs of a task.

    The real server takes it, and the task's driver dies: ML Metadata holds one event of a kind for an artifact and an execution
    (seen on Kubeflow Pipelines 2.17).
    """
    for component in (spec["root"], *spec["components"].values()):
        for task, described in component.get("dag", {}).get("tasks", {}).items():
            artifacts = described.get("inputs", {}).get("artifacts", {}).values()
            sources = [json.dumps(source, sort_keys=True) for source in artifacts]
            if len(set(sources)) < len(sources):
                raise Refused(400, f"task {task}: one artifact on two inputs")


class Kfp:
    """The server's memory, and what it was asked."""

    def __init__(self) -> None:
        self.token: str | None = None  # demanded when set
        self.user = ""  # several users: whoever asks has this namespace alone
        self.form = "api"  # or "old" (no v2beta1) or "login" (a web page)
        self.requests: list[tuple[str, str]] = []
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        # State of a run and of its tasks, poll by poll; or the name of a real answer
        self.story: list[tuple[str, dict[str, str]] | str] = [("SUCCEEDED", {})]
        self.canceling_polls = 2  # so often is a cancelled run CANCELING before it is FAILED
        self._numbers = itertools.count(1)
        self.before: Callable[[str, str], None] = lambda method, path: None  # a test's: raises Refused, or looks
        self.spoil: Callable[[str, str, Any], Any] = lambda method, path, said: (
            said
        )  # a test's: what is answered in its place

    def enabled(self) -> list[str]:
        """Ids of the recurring runs that fire."""
        return [name for name, item in self.recurring.items() if item["status"] == "ENABLED"]

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers):04d}"

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> dict[str, Any]:
        """The reply to one request."""
        self.requests.append((method, path))
        self.before(method, path)
        if self.user and path in ("pipelines", "experiments"):
            self._check_user((query if method == "GET" else body).get("namespace"))
        parts = path.split("/")
        match [method, *parts]:
            case ["GET", "healthz"]:
                return {"multi_user": bool(self.user), "pipeline_store": "database"}
            case ["GET", "pipelines"]:
                return {"pipelines": _filtered(self.pipelines, query)}
            case ["POST", "pipelines"]:
                return self._keep(self.pipelines, "pipeline_id", "pipeline", body, "V2beta1Pipeline")
            case ["POST", "pipelines", "upload_version"]:
                return self._upload(query, body)
            case ["GET", "pipelines", pipeline_id, "versions"]:
                mine = {k: v for k, v in self.versions.items() if v["pipeline_id"] == pipeline_id}
                return {"pipeline_versions": _filtered(mine, query)}
            case ["GET", "experiments"]:
                return {"experiments": _filtered(self.experiments, query)}
            case ["POST", "experiments"]:
                return self._keep(self.experiments, "experiment_id", "experiment", body, "V2beta1Experiment")
            case ["POST", "runs"]:
                self._check_reference(body)
                made = self._keep(self.runs, "run_id", "run", body | {"state": "PENDING"}, "V2beta1Run")
                made |= {"created_at": _now(), "state_history": [{"update_time": _now(), "state": "PENDING"}]}
                return made
            case ["GET", "runs"]:
                return self._list_runs(query)
            case ["GET", "runs", run_id]:
                return self._run(run_id)
            case ["POST", "runs", action] if action.endswith(":terminate"):
                run = _known(self.runs, action.removesuffix(":terminate"))
                if run["state"] in ("SUCCEEDED", "FAILED"):
                    raise Refused(400, f"cannot terminate a run that is {run['state']}")
                _enter(run, "CANCELING")
                return {}
            case ["GET", "recurringruns"]:
                mine = {k: v for k, v in self.recurring.items() if v["experiment_id"] == query.get("experiment_id")}
                return {"recurringRuns": _filtered(mine, query)}
            case ["POST", "recurringruns"]:
                self._check_reference(body)
                if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
                    raise Refused(400, "cron needs six fields")
                read = body | {"max_concurrency": str(body["max_concurrency"])}  # KFP's client sends a number
                made = self._keep(self.recurring, "recurring_run_id", "recurring", read, "V2beta1RecurringRun")
                made["status"] = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
                return made
            case ["POST", "recurringruns", action] if action.endswith((":enable", ":disable")):
                name, _, verb = action.partition(":")
                _known(self.recurring, name)["status"] = f"{verb.upper()}D"
                return {}
            case ["DELETE", "recurringruns", name]:
                _known(self.recurring, name)
                del self.recurring[name]
                return {}
        raise Refused(404, f"{method} {path}: no such route")

    def _check_user(self, namespace: str | None) -> None:
        """With several users experiments and pipelines are in a namespace, which has to be said, and is asked for as a right."""
        if not namespace:
            raise Refused(400, "Invalid input error: namespace is empty in multi-user mode")
        if namespace != self.user:
            raise Refused(403, f"PermissionDenied: not allowed in namespace {namespace}")

    def _keep(self, where: dict[str, Any], field: str, kind: str, body: Any, model: str) -> dict[str, Any]:
        checked(body, model)
        made = body | {field: self.new_id(kind)}
        where[made[field]] = made
        return made

    def _upload(self, query: dict[str, str], content: str) -> dict[str, Any]:
        _known(self.pipelines, query["pipelineid"])
        if any(v["display_name"] == query["name"] for v in self.versions.values()):
            raise Refused(409, f"version {query['name']} already exists")
        spec = check_pipeline(list(yaml.safe_load_all(content)))
        made = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": self.new_id("version"),
            "display_name": query["name"],
            "description": query.get("description", ""),
            "pipeline_spec": spec,
        }
        self.versions[made["pipeline_version_id"]] = made
        return made

    def _check_reference(self, body: dict[str, Any]) -> None:
        _known(self.experiments, body["experiment_id"])
        if reference := body.get("pipeline_version_reference"):
            version = _known(self.versions, reference["pipeline_version_id"])
            spec = version["pipeline_spec"]["pipeline_spec"]
            known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
            if unknown := set(body["runtime_config"].get("parameters", {})) - set(known):
                raise Refused(400, f"no such parameters: {unknown}")
        else:
            given = body["pipeline_spec"]
            both = [given["pipeline_spec"], given["platform_spec"]] if "pipeline_spec" in given else [given]
            check_pipeline(both)

    def _list_runs(self, query: dict[str, str]) -> dict[str, Any]:
        """Newest first, a page at a time, without their tasks."""
        if query.get("sort_by") != "created_at desc":
            raise Refused(400, f"sorted by {query.get('sort_by')}")
        runs = _filtered(self.runs, query)
        mine = [run for run in runs if run["experiment_id"] == query.get("experiment_id")][::-1]
        start, size = int(query.get("page_token") or 0), int(query["page_size"])
        page = {"runs": [{k: v for k, v in run.items() if k != "run_details"} for run in mine[start : start + size]]}
        return page | ({"next_page_token": str(start + size)} if len(mine) > start + size else {})

    def _run(self, run_id: str) -> dict[str, Any]:
        run = _known(self.runs, run_id)
        if run["state"] == "CANCELING":
            run["polls"] = run.get("polls", 0) + 1
            if run["polls"] > self.canceling_polls:
                _enter(run, "FAILED")
                _tear_down(run)
            return _shown(run)
        if any(then["state"] == "CANCELING" for then in run["state_history"]):
            return _shown(run)
        moment = self.story[0] if len(self.story) == 1 else self.story.pop(0)
        if isinstance(moment, str):
            real = json.loads((FACTS / f"{moment}.json").read_text())
            run |= {name: real[name] for name in ("state", "state_history", "run_details")}
        else:
            state, tasks = moment
            _enter(run, state)
            run["run_details"] = {"task_details": _details(tasks)}
        return _shown(run)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _enter(thing: dict[str, Any], state: str) -> None:
    if thing.get("state") != state:
        thing["state"] = state
        thing["state_history"] = [*thing.get("state_history", []), {"update_time": _now(), "state": state}]


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "polls"}


def _details(tasks: dict[str, str]) -> list[dict[str, Any]]:
    """Each task with the children that Argo makes of it; a name in full (``distill-driver``) is one of these children."""
    made: list[dict[str, Any]] = []
    for name, state in tasks.items():
        names = [name, f"{name}(0)"]
        if not name.endswith("-driver"):
            drivers = [] if f"{name}-driver" in tasks else [f"{name}-driver", f"{name}-driver(0)"]
            made += [_task(driver, "SUCCEEDED" if state else "") for driver in drivers]
            names += ["executor", "executor(0)"]
        made += [_task(one, state) for one in names]
    return [*made, _task("exit-handler-1", "RUNNING"), _task("root", "RUNNING"), _task("root-driver", "SUCCEEDED")]


def _task(name: str, state: str) -> dict[str, Any]:
    task = {"display_name": name, "start_time": _now(), "child_tasks": [{"pod_name": f"sida-x-j6xsj-{len(name)}"}]}
    if state not in ("RUNNING", "PENDING"):
        task["end_time"] = _now()  # also of one that never ran: seen
    return task | {"state_history": [{"update_time": _now()}]} | ({"state": state} if state else {})


def _tear_down(run: dict[str, Any]) -> None:
    """What was at work when the run was cancelled has failed."""
    for task in run.get("run_details", {}).get("task_details", []):
        if task.get("state") in ("RUNNING", "PENDING"):
            task |= {"state": "FAILED", "end_time": _now()}


def _known(where: dict[str, Any], name: str) -> Any:
    if name not in where:
        raise Refused(404, f"{name} not found")
    return where[name]


def _filtered(where: dict[str, Any], query: dict[str, str]) -> list[Any]:
    found = list(where.values())
    for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
        if predicate["operation"] not in ("EQUALS", 1):
            raise Refused(400, f"operation {predicate['operation']}")
        found = [item for item in found if item.get(predicate["key"]) == predicate["stringValue"]]
    return found


@contextmanager
def serve() -> Iterator[tuple[str, Kfp]]:
    """(address, memory) of a running server."""
    kfp = Kfp()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kfp))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kfp
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(kfp: Kfp) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                self._send(200, "application/json", json.dumps(self._answer(body)).encode())
            except Refused as error:
                said = {"code": error.status, "message": str(error), "details": []}
                self._send(error.status, "application/json", json.dumps(said).encode())

        def _answer(self, body: bytes) -> Any:
            if kfp.token is not None and self.headers.get("Authorization") != f"Bearer {kfp.token}":
                raise Refused(401, "Unauthorized request")
            url = urlsplit(self.path)
            if kfp.form == "old" or not url.path.startswith(BASE):
                raise Refused(404, "Not Found")
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            path = url.path.removeprefix(BASE)
            return kfp.spoil(self.command, path, kfp.answer(self.command, path, query, self._read(body)))

        def _read(self, body: bytes) -> Any:
            kind = self.headers.get("Content-Type", "")
            if "multipart" in kind:
                boundary = kind.split("boundary=")[1].encode()
                part = body.split(b"--" + boundary)[1]
                return part.split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n").decode()
            return json.loads(body) if body else None

        def _send(self, status: int, kind: str, content: bytes) -> None:
            if kfp.form == "login":
                status, kind, content = 200, "text/html", b"<html>multi_user? log in</html>"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler
