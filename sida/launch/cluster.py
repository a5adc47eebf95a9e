"""One namespace of a Kubernetes cluster, through the ``kubernetes`` client: TrainJobs, events, pods, logs.

An API server is away now and then, for an upgrade or an hour's outage, while jobs run on. Calls here are repeated until it answers,
at most ``outage_seconds``; what it refuses is one line for the user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.errors import SidaError, UserError
from sida.launch import answers, queue
from sida.launch.answers import bound_answers, whole_body
from sida.launch.shapes import NAME, OBJECT
from sida.launch.trainjob_manifest import API_VERSION, GROUP, PLURAL, STEP, VERSION
from sida.patience import hush_retries
from sida.printing import one_line
from sida.settings import environment
from sida.shapes import misshapen

CALL_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two bytes
MAX_PAUSE = 60.0
LINE_BYTES = 64 << 10  # of a log
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_OF_ONE = ("name", "uid")  # of what is looked at again, or deleted: another may have its name by then
_TRANSIENT = (401, 408, 429, 500, 502, 503, 504)  # 401: a service account's token is being renewed


@dataclass(frozen=True)
class Clock:
    """Time for patience and pauses; ``speed`` lets tests live through an hour in seconds."""

    speed: float = 1.0

    def now(self) -> float:
        """Seconds on a clock that no one sets."""
        return time.monotonic() * self.speed

    def sleep(self, seconds: float) -> None:
        """Pause."""
        time.sleep(seconds / self.speed)


class ApiRefused(Exception):
    """The API server answered with an error that is no passing one."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Cluster:
    """The API server as seen from one namespace. Raises UserError when no cluster is configured here."""

    def __init__(self, namespace: str, *, outage_seconds: float = 60.0, clock: Clock | None = None) -> None:
        from kubernetes import client

        hush_retries()
        self.namespace, self.outage_seconds, self.clock = namespace, outage_seconds, clock or Clock()
        self._heard = self.clock.now()
        self.tick: Callable[[], None] = lambda: None  # called about once a second while we wait
        api = client.ApiClient(_configuration())
        bound_answers(api.rest_client.pool_manager)
        self.host = str(api.configuration.host)
        self._api, self._objects, self._core = api, client.CustomObjectsApi(api), client.CoreV1Api(api)

    # -- TrainJobs

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """POST. Raises ApiRefused, with status 409 when the name is taken."""
        made = self._read(self._objects.create_namespaced_custom_object, *self._kind(), manifest)
        return self._checked(made, _OF_ONE, manifest["metadata"]["name"])

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the TrainJob of this name; None when there is none."""
        return self._object_if_there(
            self._objects.get_namespaced_custom_object, *self._kind(), name, asked=name, fields=_OF_ONE
        )

    def find(self, labels: str) -> list[dict[str, Any]]:
        """TrainJobs by label selector, those that steps made."""
        listed = self._read(self._objects.list_namespaced_custom_object, *self._kind(), label_selector=labels)
        return [job for job in self._listed(listed, _OF_ONE) if STEP in (job["metadata"].get("labels") or {})]

    def patch(self, name: str, changes: dict[str, Any]) -> None:
        """Merge ``changes`` into a TrainJob; one that is gone is none of our business."""
        # A body that is a list would be a JSON patch: the client chooses merge-patch for a mapping.
        self._unless_gone(self._objects.patch_namespaced_custom_object, *self._kind(), name, changes)

    def annotate(self, name: str, uid: str, annotations: dict[str, str]) -> bool:
        """Write annotations of the TrainJob of this uid, in one attempt. Return False where that is not allowed."""
        call, changes = self._objects.patch_namespaced_custom_object, {"uid": uid, "annotations": annotations}
        try:
            self.once(call, *self._kind(), name, {"metadata": changes}, _request_timeout=CALL_TIMEOUT).release_conn()
        except Exception as error:
            if isinstance(error, ApiRefused) and passing(error) is None:
                return error.status in (404, 409, 422)  # it is gone, or another has its name: its uid cannot be changed
            if passing(error) is None:
                raise
        return True

    def delete(self, name: str, uid: str) -> None:
        """Delete the TrainJob of this uid; another one of the same name stays. Its pods end a while after it.

        Never in the foreground: Trainer (2.3) makes a JobSet anew as long as its TrainJob is there, so that both go on for minutes.
        """
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self._unless_gone(self._objects.delete_namespaced_custom_object, *self._kind(), name, body=body)

    def _unless_gone(self, call: Callable[..., Any], *given: Any, **named: Any) -> None:
        try:
            self._read(call, *given, **named)
        except ApiRefused as error:
            if error.status not in (404, 409):  # 409: its uid is another
                raise

    def _kind(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    # -- pods

    def pods(self, labels: str) -> list[dict[str, Any]]:
        """Pods by label selector."""
        return self._listed(self._read(self._core.list_namespaced_pod, self.namespace, label_selector=labels), _OF_ONE)

    def pods_now(self, labels: str) -> list[dict[str, Any]] | None:
        """Pods by label selector; None where they cannot be seen now, or may not."""
        return self._seen_now(self.namespace, label_selector=labels)

    def own_pod(self) -> dict[str, Any] | None:
        """Return the pod that this process runs in; None outside of one, and where it cannot be seen now, or may not."""
        if (name := environment().get("HOSTNAME")) is None or not OWN_NAMESPACE.is_file():
            return None
        namespace = OWN_NAMESPACE.read_text(encoding="utf-8").strip()
        return next(iter(self._seen_now(namespace, field_selector=f"metadata.name={name}") or ()), None)

    def _seen_now(self, namespace: str, **selector: str) -> list[dict[str, Any]] | None:
        """List pods in one attempt; None where they cannot be seen now, or may not."""
        try:
            return self._listed(self._answer(self._core.list_namespaced_pod, namespace, **selector), _OF_ONE)
        except Exception as error:
            if not isinstance(error, ApiRefused | NoApi) and passing(error) is None:
                raise
            return None

    def log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        since_seconds: int | None = None,
        timestamps: bool = False,
        tail_lines: int | None = None,
    ) -> Any:
        """The open response, a line at a time; not repeated. Raises ApiRefused or urllib3's HTTPError."""
        return self.once(
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container=container,
            follow=follow,
            since_seconds=since_seconds,
            tail_lines=tail_lines,
            timestamps=timestamps,
            _request_timeout=(10.0, 600.0 if follow else 30.0),
        )

    # -- what tells of a step's standing

    def warnings(self, about: str = "") -> list[dict[str, Any]]:
        """Events of type Warning, of all objects or those called ``about``; the API server forgets them after an hour."""
        selector = "type=Warning" + (f",involvedObject.name={about}" if about else "")
        return self._items(self._core.list_namespaced_event, self.namespace, field_selector=selector)

    def workflows(self, labels: str) -> list[dict[str, Any]]:
        """List Argo's Workflows, which Kubeflow Pipelines makes of runs, by label selector."""
        return self.objects("workflows", labels)

    def workflow(self, name: str) -> dict[str, Any] | None:
        """Return the Workflow of this name; None when there is none."""
        return self.object("workflows", name)

    # -- Argo's objects: workflows, workflowtemplates, cronworkflows

    def object(self, plural: str, name: str) -> dict[str, Any] | None:
        """Return an object of Argo's by its name; None when there is none."""
        call = self._objects.get_namespaced_custom_object
        return self._object_if_there(call, *self._of_argo(plural), name, asked=name, fields=("name",))

    def objects(self, plural: str, labels: str) -> list[dict[str, Any]]:
        """List objects of Argo's by label selector."""
        call = self._objects.list_namespaced_custom_object
        return self._items(call, *self._of_argo(plural), label_selector=labels)

    def create_object(self, plural: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create an object of Argo's. Raises ApiRefused, with status 409 when the name is taken."""
        return self._read(self._objects.create_namespaced_custom_object, *self._of_argo(plural), manifest)

    def change_object(self, plural: str, name: str, changes: dict[str, Any]) -> None:
        """Merge ``changes`` into an object of Argo's."""
        self._read(self._objects.patch_namespaced_custom_object, *self._of_argo(plural), name, changes)

    def delete_object(self, plural: str, name: str) -> None:
        """Delete an object of Argo's; what it made stays."""
        body = {"propagationPolicy": "Orphan"}
        self._unless_gone(self._objects.delete_namespaced_custom_object, *self._of_argo(plural), name, body=body)

    def _of_argo(self, plural: str) -> tuple[str, str, str, str]:
        return "argoproj.io", "v1alpha1", self.namespace, plural

    def workloads(self) -> list[dict[str, Any]]:
        """List Kueue's Workloads: what waits in its queues, and what they let in."""
        call = self._objects.list_namespaced_custom_object
        return self._items(call, queue.GROUP, queue.VERSION, self.namespace, queue.PLURAL)

    # -- what the cluster serves

    def serves_trainjobs(self) -> bool:
        """Return whether the API that our manifests are written for is there (discovery, as kubectl does it)."""
        answer = self._read_if_there(self._objects.get_api_resources, GROUP, VERSION) or {"resources": []}
        resources = answer.get("resources")
        if not isinstance(resources, list):
            raise NoApi(self.host, "no list of resources")
        return any(isinstance(resource, dict) and resource.get("name") == PLURAL for resource in resources)

    def has_runtime(self, kind: str, name: str) -> bool:
        """Return whether the TrainingRuntime or ClusterTrainingRuntime is there."""
        if kind == "TrainingRuntime":
            return self.runtime(name) is not None
        call = self._objects.get_cluster_custom_object
        return self._object_if_there(call, GROUP, VERSION, "clustertrainingruntimes", name, asked=name) is not None

    def runtime(self, name: str) -> dict[str, Any] | None:
        """Return the TrainingRuntime of this name; None when there is none."""
        call = self._objects.get_namespaced_custom_object
        return self._object_if_there(call, GROUP, VERSION, self.namespace, "trainingruntimes", name, asked=name)

    # -- calls

    def _read(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """The answer to a call as JSON; repeated while the server is away or busy."""
        began, pause = self.clock.now(), 0.5
        while True:
            try:
                return self._answer(call, *given, **named)
            except Exception as error:
                why = passing(error)
                if why is None:
                    raise
                silent = self.clock.now() - began
                if silent >= self.outage_seconds:
                    since = f"has not answered for {silent:.0f} s" if silent >= 1 else "does not answer"
                    raise Unreachable(
                        f"the Kubernetes API at {self.host} {since} ({why}): check the address and this machine's kubeconfig"
                    ) from error
            self.pause(pause)
            pause = min(2 * pause, MAX_PAUSE)

    def _answer(self, call: Callable[..., Any], *given: Any, **named: Any) -> dict[str, Any]:
        """One attempt; the answer as JSON. Raises NoApi for one that no API server gives."""

        with self.once(call, *given, _request_timeout=CALL_TIMEOUT, **named) as response:
            body = whole_body(response)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise NoApi(self.host, "no JSON") from None
        if not isinstance(answer, dict):
            raise NoApi(self.host, "no object")
        return answer

    def _items(self, call: Callable[..., Any], *given: Any, **named: Any) -> list[dict[str, Any]]:
        return self._listed(self._read(call, *given, **named))

    def _listed(self, answer: dict[str, Any], fields: tuple[str, ...] = ("name",)) -> list[dict[str, Any]]:
        """Return the objects of a list, checked."""
        items = answer.get("items")
        if not isinstance(items, list):
            raise NoApi(self.host, "no list of objects")
        return [self._checked(item, fields) for item in items]

    def _object_if_there(
        self, call: Callable[..., Any], *given: Any, asked: str, fields: tuple[str, ...] = ()
    ) -> dict[str, Any] | None:
        """Return the object of the name that is asked for, checked; None where there is no such thing."""
        answer = self._read_if_there(call, *given)
        return None if answer is None else self._checked(answer, fields, asked)

    def _checked(self, item: Any, fields: tuple[str, ...], name: str = "") -> dict[str, Any]:
        """Return an object whose metadata have these fields, and in which everything is of its type. Raises NoApi for another.

        ``name``: which one was asked for.
        """
        if fault := misshapen(item, OBJECT):
            raise NoApi(self.host, fault)
        metadata = (item or {}).get("metadata") or {}
        for field in fields:
            if not NAME.fullmatch(metadata.get(field) or ""):
                raise NoApi(self.host, f"an object without metadata.{field}")
        if name and metadata.get("name") not in (None, name):
            raise NoApi(self.host, f"{metadata['name']} in place of {name}")
        return dict(item)

    def _read_if_there(self, call: Callable[..., Any], *given: Any) -> dict[str, Any] | None:
        """Return the answer to a call; None where it is that there is no such thing."""
        try:
            return dict(self._read(call, *given))
        except ApiRefused as error:
            if error.status == 404:
                return None
            raise

    def pause(self, seconds: float) -> None:
        """Wait, with a ``tick`` about once a second."""
        end = self.clock.now() + seconds
        while (left := end - self.clock.now()) > 0:
            self.tick()
            self.clock.sleep(min(left, 1.0))

    def silent_for(self) -> float:
        """Seconds since the server last answered."""
        return self.clock.now() - self._heard

    def once(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """One attempt; the open response. Raises ApiRefused or urllib3's HTTPError."""
        from kubernetes.client import ApiException

        try:
            response = call(*given, _preload_content=False, **named)
        except ApiException as error:
            if error.status not in _TRANSIENT:
                self._heard = self.clock.now()
            raise ApiRefused(error.status or 0, *_reason_and_message(error)) from error
        self._heard = self.clock.now()
        return response


class Unreachable(UserError):
    """The API server does not answer."""


class NoApi(UserError):
    """What answers is no API server: a page of a proxy, an endless file."""

    def __init__(self, host: str, found: str) -> None:
        super().__init__(
            f"{host} does not answer as a Kubernetes API does ({found}): check the address in this machine's kubeconfig, and "
            f"proxies on the way"
        )


@contextmanager
def understood(host: str) -> Iterator[None]:
    """Raise NoApi for what the block cannot do with an answer: something is missing in it, or is another than it must be."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise NoApi(host, one_line(f"{type(error).__name__}: {error}", 100)) from error


def passing(error: Exception) -> str | None:
    """Say in a few words why a call may succeed when it is made again; None when it will not."""
    from urllib3.exceptions import HTTPError

    if isinstance(error, ApiRefused):
        return f"status {error.status}" if error.status in _TRANSIENT else None
    if isinstance(error, HTTPError | OSError):
        return type(error).__name__
    return None


def explain(error: ApiRefused, doing: str, namespace: str) -> SidaError:
    """A refusal as one line for the user."""
    if error.status == 403 and "admission webhook" not in str(error):
        return UserError(
            f"not allowed to {doing} in namespace {namespace} ({error}): grant it; `sida runtime` prints the Role"
        )
    if error.status == 404:
        return UserError(
            f"cannot {doing}: the cluster does not serve {API_VERSION}, or has no namespace {namespace} ({error}): "
            f"install Kubeflow Trainer 2.2 or newer, or take `launcher: trainjob` out of the profile"
        )
    return UserError(
        f"the cluster refused to {doing} in namespace {namespace}: {error.status} {error}: check the profile"
    )


def lines(response: Any, *, follow: bool = False) -> Iterator[bytes]:
    """Whole lines of an open response, as they come, without their ends; a line's beginning where it is longer than LINE_BYTES.

    Raises urllib3's HTTPError, also where the answer takes too long of which no more than what is there is wanted.
    """
    from urllib3.exceptions import ProtocolError

    rest, waited = bytearray(), 0.0
    try:
        while True:
            began = time.monotonic()
            block = response.read1(LINE_BYTES, decode_content=False)
            waited += time.monotonic() - began  # and not the time that our reader takes
            if not block:
                break
            if waited > answers.ANSWER_SECONDS and not follow:
                raise ProtocolError(f"no whole answer within {answers.ANSWER_SECONDS:.0f} s")
            rest += block
            if b"\n" in block:
                *whole, rest = rest.split(b"\n")
                yield from map(_cut, whole)
            del rest[LINE_BYTES + 1 :]
    finally:
        response.close()
    if rest:
        yield _cut(rest)


def _cut(line: bytearray) -> bytes:
    return bytes(line) if len(line) <= LINE_BYTES else bytes(line[:LINE_BYTES]) + b" ..."


def _reason_and_message(error: Any) -> tuple[str, str]:
    """(reason, message) of an answer, from its Status object where there is one."""
    try:
        status = json.loads(error.body)
        return one_line(str(status.get("reason") or error.reason), 100), one_line(str(status["message"]), 400)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        return (one_line(str(error.reason), 100),) * 2


def _configuration() -> Any:
    """Read the service account in a pod; elsewhere KUBECONFIG or ~/.kube/config, as kubectl does."""
    from kubernetes import client, config
    from kubernetes.config import ConfigException

    configuration = client.Configuration()
    variables = environment()
    try:
        if "KUBERNETES_SERVICE_HOST" in variables and "KUBECONFIG" not in variables:
            config.load_incluster_config(configuration)
        else:
            config.load_kube_config(variables.get("KUBECONFIG"), client_configuration=configuration)
    except (ConfigException, OSError) as error:
        reason = one_line(str(error), 200)
        raise UserError(
            f"no Kubernetes cluster is configured here ({reason}): set KUBECONFIG, as for kubectl"
        ) from error
    configuration.retries = False  # we repeat calls ourselves
    return configuration
