"""A stand-in for the Kubernetes API: real HTTP, chunked logs, resource versions, and the faults that real ones have.

It keeps TrainJobs, events, pods, logs, Kueue's Workloads, and Argo's Workflows, WorkflowTemplates and CronWorkflows; a test plays
the controllers. What has no namespace of its own is in NAMESPACE. What is created is checked against the real CRDs.
What it can do wrong: be away (connections are closed unanswered, open logs cut), refuse verbs, lose an answer after the deed, take
its time to delete.
"""

from __future__ import annotations

import copy
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.launch import argo_crds
from tests.launch.crds import errors

TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
ARGO = "/apis/argoproj.io/v1alpha1"
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
NAMESPACE = "work"
ARGOS = {"workflows": "Workflow", "workflowtemplates": "WorkflowTemplate", "cronworkflows": "CronWorkflow"}
IMMUTABLE = ("trainer", "runtimeRef", "runtimePatches", "activeDeadlineSeconds")


class Answer(Exception):
    """A Status other than success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    def body(self) -> dict[str, Any]:
        return {"kind": "Status", "status": "Failure", "code": self.status, "reason": self.reason, "message": str(self)}


class Kube:
    """The server's memory; all methods are the test's (controller's, kubelet's) side of it."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            "trainjobs": {},
            "events": {},
            "pods": {},
            **{kind: {} for kind in ARGOS},
            "workloads": {},
        }
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.closed_logs: set[str] = set()
        self.runtimes = {"sida-torch"}
        self.served = True  # whether Kubeflow Trainer is installed
        self.argo = True  # whether Argo Workflows is
        self.overlooked = 0  # so many next Workflows meet a controller that has not seen their template yet
        self.away = False
        self.cut = 0  # a counter: logs that were opened before it grew are cut
        self.forbidden: set[tuple[str, str]] = set()  # (verb, kind); of logs: ("get", "log")
        self.plain: dict[str, dict[str, Any]] = {}  # path -> any other object or list that may be read
        self.hidden: set[str] = set()  # paths of these that this user may not read
        self.lose_answers = 0  # so many next answers to writes are lost
        self.delete_seconds = 0.0  # so long pods take to end
        self.requests: list[str] = []
        self.on_create: Callable[[dict[str, Any]], None] = lambda job: None
        self.before: Callable[[str, str], None] = lambda method, path: (
            None
        )  # a test's: changes things, or raises Answer
        self._numbers = itertools.count(1)
        self._version = 0

    # -- the controller

    def record(self, kind: str, what: str, thing: dict[str, Any]) -> None:
        with self.lock:
            self._version += 1
            thing["metadata"]["resourceVersion"] = str(self._version)
            where, name = self.objects[kind], thing["metadata"]["name"]
            if what == "DELETED":
                where.pop(name, None)
            else:
                where[name] = thing
            self.lock.notify_all()

    def job(self, name: str = "") -> dict[str, Any]:
        jobs = self.objects["trainjobs"]
        return jobs[name] if name else next(iter(jobs.values()))

    def condition(self, kind: str, reason: str = "", message: str = "", status: str = "True") -> None:
        """Set a condition of the only TrainJob."""
        with self.lock:
            job = copy.deepcopy(self.job())
            conditions = job.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [c for c in conditions if c["type"] != kind]
            conditions.append({"type": kind, "status": status, "reason": reason or kind, "message": message})
            self.record("trainjobs", "MODIFIED", job)

    def counts(self, **counts: int) -> None:
        with self.lock:
            job = copy.deepcopy(self.job())
            job.setdefault("status", {})["jobsStatus"] = [{"name": "node", **counts}]
            self.record("trainjobs", "MODIFIED", job)

    def event(self, reason: str, message: str, uid: str = "", kind: str = "TrainJob") -> None:
        with self.lock:
            job = self.job()
            name = f"{job['metadata']['name']}.{next(self._numbers)}"
            about = {"kind": kind, "name": job["metadata"]["name"], "uid": uid or job["metadata"]["uid"]}
            event = {"metadata": {"name": name}, "involvedObject": about, "type": "Warning"}
            self.record("events", "ADDED", event | {"reason": reason, "message": message})

    def pod(self, restart: int = 0, index: int = 0, phase: str = "Running", *, suffix: str = "", **status: Any) -> str:
        """A pod of the only TrainJob; its name. ``suffix``: of one that is made anew without a restart."""
        with self.lock:
            job = self.job()["metadata"]["name"]
            name = f"{job}-node-0-{index}-{restart}{suffix}"
            labels = {
                "jobset.sigs.k8s.io/jobset-name": job,
                "jobset.sigs.k8s.io/restart-attempt": str(restart),
                "batch.kubernetes.io/job-completion-index": str(index),
            }
            state = {"Running": {"running": {}}, "Pending": {"waiting": {"reason": "ContainerCreating"}}}
            made = {
                "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": _now()},
                "status": {
                    "phase": phase,
                    "containerStatuses": [{"name": "node", "state": state.get(phase, {"terminated": {"exitCode": 0}})}],
                    **status,
                },
            }
            self.record("pods", "ADDED", made)
            self.logs.setdefault(name, [])
            return name

    def say(self, pod: str, *lines: str) -> None:
        with self.lock:
            self.logs[pod] += [(_now(), line) for line in lines]
            self.lock.notify_all()

    def end_pod(self, pod: str, phase: str, **terminated: Any) -> None:
        with self.lock:
            ended = copy.deepcopy(self.objects["pods"][pod])
            ended["status"]["phase"] = phase
            state = {"exitCode": int(phase == "Failed"), **terminated}
            ended["status"]["containerStatuses"][0]["state"] = {"terminated": state}
            self.closed_logs.add(pod)
            self.record("pods", "MODIFIED", ended)

    def delete_pod(self, pod: str) -> None:
        with self.lock:
            self.record("pods", "DELETED", self.objects["pods"][pod])

    def go_away(self) -> None:
        with self.lock:
            self.away, self.cut = True, self.cut + 1
            self.lock.notify_all()

    def come_back(self) -> None:
        self.away = False

    def cut_streams(self) -> None:
        with self.lock:
            self.cut += 1
            self.lock.notify_all()

    # -- requests

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> dict[str, Any]:
        self.before(method, path)
        if method == "GET" and path in self.hidden:
            what = path.rsplit("/", 2)[1]
            raise Answer(403, "Forbidden", f'User "test" cannot get resource "{what}" in API group ""')
        if method == "GET" and path in self.plain:
            found = self.plain[path]
            return found | ({"items": [i for i in found["items"] if _selected(i, query)]} if "items" in found else {})
        with self.lock:
            parts = path.removeprefix(TRAINER).strip("/").split("/")
            if path == TRAINER:
                if not self.served:
                    raise Answer(404, "NotFound", "the server could not find the requested resource")
                return {"kind": "APIResourceList", "resources": [{"name": "trainjobs"}, {"name": "trainjobs/status"}]}
            if path.startswith(TRAINER):
                if not self.served or parts[:2] != ["namespaces", NAMESPACE]:
                    raise Answer(404, "NotFound", "the server could not find the requested resource")
                match [method, *parts[2:]]:
                    case ["POST", "trainjobs"]:
                        return self._create(body)
                    case ["GET", "trainjobs"]:
                        return self._list("trainjobs", query)
                    case ["GET", "trainjobs", name]:
                        return self._known(name)
                    case ["PATCH", "trainjobs", name]:
                        return self._patch(name, body)
                    case ["DELETE", "trainjobs", name]:
                        return self._delete(name, body)
                    case ["GET", "trainingruntimes", name] if name in self.runtimes:
                        return {"metadata": {"name": name}}
                raise Answer(404, "NotFound", f"{path} not found")
            if path.startswith(f"{ARGO}/namespaces/"):
                return self._argo(method, path.removeprefix(f"{ARGO}/namespaces/").split("/"), query, body)
            for group in ("/api/v1", KUEUE):
                path = path.removeprefix(f"{group}/")
            match [method, *path.split("/")]:
                case ["GET", "namespaces", namespace, "pods" | "events" | "workloads" as kind]:
                    return self._list(kind, query, namespace)
            raise Answer(404, "NotFound", f"{path} not found")

    def _argo(self, method: str, parts: list[str], query: dict[str, str], body: Any) -> dict[str, Any]:
        namespace, kind, *rest = parts
        if not self.argo or kind not in ARGOS:
            raise Answer(404, "NotFound", "the server could not find the requested resource")
        there = self.objects[kind]
        match [method, *rest]:
            case ["POST"]:
                return self._make(kind, namespace, body)
            case ["GET"]:
                return self._list(kind, query, namespace)
            case [_, name] if there.get(name, {}).get("metadata", {}).get("namespace", namespace) != namespace or (
                name not in there
            ):
                raise Answer(404, "NotFound", f'{kind}.argoproj.io "{name}" not found')
            case ["GET", name]:
                return there[name]
            case ["PATCH", name]:
                self.record(kind, "MODIFIED", _merged(there[name], body))
                return there[name]
            case ["DELETE", name]:
                gone = there[name]
                self.record(kind, "DELETED", gone)
                if body.get("propagationPolicy") != "Orphan":  # what it owns goes with it
                    owned = (gone["kind"], name)
                    for made in [*self.objects["workflows"].values()]:
                        owners = made["metadata"].get("ownerReferences", [])
                        if owned in [(owner["kind"], owner["name"]) for owner in owners]:
                            self.record("workflows", "DELETED", made)
                return {"kind": "Status", "status": "Success"}
        raise Answer(405, "MethodNotAllowed", f"{method} {parts}")

    def _make(self, kind: str, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keep an object; the controller looks at a new Workflow at once."""
        name = body["metadata"]["name"]
        if (body["apiVersion"], body["kind"]) != ("argoproj.io/v1alpha1", ARGOS[kind]):
            raise Answer(400, "BadRequest", f"{body['kind']} in {body['apiVersion']} is no {ARGOS[kind]}")
        if body["metadata"].get("namespace", namespace) != namespace:
            raise Answer(400, "BadRequest", "the namespace of the object does not match the namespace on the request")
        if wrong := argo_crds.errors(body):
            raise Answer(422, "Invalid", f"{body['kind']} is invalid: {wrong}")
        if name in self.objects[kind]:
            raise Answer(409, "AlreadyExists", f'{kind}.argoproj.io "{name}" already exists')
        made = copy.deepcopy(body)
        made["metadata"] |= {"uid": f"uid-{next(self._numbers)}", "creationTimestamp": _now()[:19] + "Z"}
        if kind == "workflows":
            of = made["spec"].get("workflowTemplateRef", {}).get("name")
            made["status"] = {"phase": "Running", "startedAt": made["metadata"]["creationTimestamp"]}
            if of is not None and (self.overlooked or of not in self.objects["workflowtemplates"]):
                self.overlooked = max(0, self.overlooked - 1)
                message = f'workflowtemplates.argoproj.io "{of}" not found'
                made["status"] |= {"phase": "Error", "message": message, "finishedAt": made["status"]["startedAt"]}
        self.record(kind, "ADDED", made)
        return made

    def _known(self, name: str) -> dict[str, Any]:
        if name not in self.objects["trainjobs"]:
            raise Answer(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found')
        return self.objects["trainjobs"][name]

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        if wrong := errors(body):
            raise Answer(422, "Invalid", f"TrainJob is invalid: {wrong}")
        name = body["metadata"]["name"]
        if name in self.objects["trainjobs"]:
            raise Answer(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        made = copy.deepcopy(body)
        made["metadata"] |= {"uid": f"uid-{next(self._numbers)}", "creationTimestamp": _now()}
        made["spec"].setdefault("suspend", False)
        self.record("trainjobs", "ADDED", made)
        self.on_create(made)
        return made

    def _patch(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if (uid := body.get("metadata", {}).get("uid")) not in (None, self._known(name)["metadata"]["uid"]):
            raise Answer(422, "Invalid", f'metadata.uid: Invalid value: "{uid}": field is immutable')
        job = _merged(self._known(name), body)
        for field in IMMUTABLE:
            if job["spec"].get(field) != self._known(name)["spec"].get(field):
                raise Answer(422, "Invalid", f"spec.{field}: field is immutable")
        self.record("trainjobs", "MODIFIED", job)
        return job

    def _delete(self, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
        job = copy.deepcopy(self._known(name))
        wanted = ((body or {}).get("preconditions") or {}).get("uid")
        if wanted not in (None, job["metadata"]["uid"]):
            raise Answer(409, "Conflict", "the UID in the precondition does not match")
        if (body or {}).get(
            "propagationPolicy"
        ) == "Foreground":  # Trainer 2.3 was seen to keep it from ending for minutes
            job["metadata"]["deletionTimestamp"] = _now()
            self.record("trainjobs", "MODIFIED", job)
            return job
        self.record("trainjobs", "DELETED", job)
        for pod in list(self.objects["pods"].values()):
            if pod["metadata"]["labels"].get("jobset.sigs.k8s.io/jobset-name") == name:
                timer = threading.Timer(self.delete_seconds, self.record, ("pods", "DELETED", pod))
                timer.daemon = True
                timer.start()
        return {"kind": "Status", "status": "Success"}

    def _list(self, kind: str, query: dict[str, str], namespace: str = NAMESPACE) -> dict[str, Any]:
        here = [one for one in self.objects[kind].values() if one["metadata"].get("namespace", NAMESPACE) == namespace]
        found = [thing for thing in here if _selected(thing, query)]
        return {"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": found}

    def log(self, pod: str, query: dict[str, str]) -> Iterator[str]:
        """Lines of a pod's log; followed until the pod ends."""
        if pod not in self.logs:
            raise Answer(404, "NotFound", f'pods "{pod}" not found')
        since, cut = "", self.cut
        sent = max(0, len(self.logs[pod]) - int(query["tailLines"])) if "tailLines" in query else 0
        if seconds := query.get("sinceSeconds"):
            since = datetime.fromtimestamp(time.time() - int(seconds), UTC).isoformat()
        while cut == self.cut:
            with self.lock:
                lines = self.logs[pod][sent:]
                sent += len(lines)
                if not lines and (pod in self.closed_logs or query.get("follow") != "True"):
                    return
                if not lines:
                    self.lock.wait(0.02)
                    continue
            for stamp, line in lines:
                if stamp >= since[:19]:
                    yield f"{stamp} {line}\n" if query.get("timestamps") == "True" else f"{line}\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _merged(old: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    made = copy.deepcopy(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made


def _selected(thing: dict[str, Any], query: dict[str, str]) -> bool:
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, _, value = term.partition("=")
        if (thing["metadata"].get("labels") or {}).get(name) != value:
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found: Any = thing
        for part in path.removesuffix("!").split("."):
            found = found.get(part, {})
        if (found == value) == path.endswith("!"):
            return False
    return True


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Kube]]:
    """(path of a kubeconfig, memory) of a running server."""
    kube = Kube()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kube))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {"token": "t0ken"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield str(path), kube
    finally:
        kube.cut_streams()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(kube: Kube) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if kube.away:
                self.close_connection = True
                return
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            kube.requests.append(f"{self.command} {url.path}")
            try:
                self._answer(url.path, query, json.loads(content) if content else None)
            except Answer as error:
                self._send(error.status, error.body())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _answer(self, path: str, query: dict[str, str], body: Any) -> None:
            kind = "log" if path.endswith("/log") else next((p for p in path.split("/") if p in kube.objects), "")
            verb = self.command.lower()
            if (verb, kind) in kube.forbidden:
                raise Answer(403, "Forbidden", f"User cannot {verb} resource {kind}")
            if path.endswith("/log"):
                return self._stream(line.encode() for line in kube.log(path.split("/")[-2], query))
            said = kube.answer(self.command, path, query, body)
            if self.command != "GET" and kube.lose_answers:
                kube.lose_answers -= 1
                self.close_connection = True
                return None
            return self._send(201 if self.command == "POST" else 200, said)

        def _stream(self, parts: Iterator[bytes]) -> None:
            first = next(parts, None)  # an Answer is raised before the headers are sent
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            cut = kube.cut
            for part in itertools.chain([first] if first is not None else [], parts):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.flush()
            if kube.cut != cut:
                self.close_connection = True  # in the middle: no last chunk
                return
            self.wfile.write(b"0\r\n\r\n")

        def _send(self, status: int, said: dict[str, Any]) -> None:
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PATCH = _do

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler
