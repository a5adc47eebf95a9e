"""Profiles: where a pipeline runs, as frozen typed models read from ``profiles/*.yaml``.

A recipe says what is done; a profile says on which cluster: engine and its address, store, images by digest, secrets by
name, and what each step asks of its node. No secret stands in a profile: it names variables, files and Kubernetes Secrets.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sida.addresses import checked
from sida.errors import UserError
from sida.launch.quantity import amount
from sida.masking import secret_in
from sida.printing import one_line
from sida.recipe.reading import Loader, fault, find_file, names, nearest, read_fields
from sida.recipe.texts import check_texts, refuse_secret, texts
from sida.registry import STEPS

PROFILES = Path(__file__).resolve().parent.parent / "profiles"
READS = {  # fields of a recipe that may name files, and the step that reads them; no run reads `released`
    "teacher.address": "fetch_teacher",
    "teacher.guide.address": "fetch_teacher",
    "generator.address": "fetch_generator",
    "dataset.address": "prepare_data",
    "evaluation.detector.address": "reference_statistics",
    "evaluation.reference.address": "reference_statistics",
    "evaluation.precision_recall_reference.address": "reference_statistics",
    "evaluation.second.detector.address": "reference_statistics",
    "evaluation.second.reference.address": "reference_statistics",
}
TAKEN = ("/dev", "/etc", "/proc", "/sys", "/tmp", "/usr", "/var/run", "/gcs", "/minio", "/s3", "/app", "/opt/venv")  # noqa: S108
LAUNCHED = tuple(step.name for step in STEPS.values() if step.launches)  # whose heavy part can run in a TrainJob
KFP_NAMESPACE = "kubeflow"  # of a Kubeflow Pipelines with one user
PATIENCE = "15m"  # for a store or server that is away; a profile's env may say otherwise
DIGEST = r"[^\s@]+@sha256:[0-9a-f]{64}"

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[int, Field(ge=1)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
Cores = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]


class Section(BaseModel):
    """Frozen section of a profile: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _is_an_address(value: str) -> str:
    if not re.match(r"https?://[^/\s]", value, re.I):
        raise ValueError("write http://host[:port] or https://host[:port]")
    try:
        return (
            value if secret_in(value) else checked(value, "it", ("http", "https"))
        )  # which is refused by its field's name
    except UserError as error:
        raise ValueError(str(error)) from error


PodGC = Literal["OnPodCompletion", "OnPodSuccess", "OnWorkflowCompletion", "OnWorkflowSuccess"]
HttpAddress = Annotated[str, AfterValidator(_is_an_address)]


class Kfp(Section):
    """How Kubeflow Pipelines is reached. Without a host: the service of this cluster, or kubectl's context, as kfp.Client does."""

    host: HttpAddress | None = None  # http://localhost:8888 through `kubectl port-forward`
    ui: HttpAddress | None = None  # for links, where it is not the host
    namespace: DnsName | None = None  # of the user, where Kubeflow has several
    experiment: Text = "sida"
    service_account: DnsName | None = None
    pipeline_root: str | None = None  # where KFP keeps manifests and logs; its own default where empty
    token_variable: Variable | None = None  # environment variable that holds a bearer token
    token_file: str | None = None  # file that holds one; a token is never given on the command line
    cookies_variable: Variable | None = None  # environment variable with the cookies of a session
    ca_file: str | None = None
    verify_tls: bool = True


class Semaphore(Section):
    """A number of workflows that may run at once, in a key of a ConfigMap."""

    config_map: DnsName  # in argo.namespace
    key: Text  # whose value is the number


class Argo(Section):
    """Argo Workflows without Kubeflow Pipelines, reached as kubectl reaches the cluster; its objects are in one namespace."""

    namespace: DnsName = "sida"  # one that a workflow controller watches
    executor_account: DnsName = "sida-argo"  # whose token Argo's own containers have, and steps have not
    ui: HttpAddress | None = None  # Argo's server, for links
    keep_seconds: Seconds = 7 * 86400  # how long to keep a finished Workflow
    pod_gc: PodGC = "OnWorkflowSuccess"  # when pods are deleted
    priority: int | None = None  # among workflows that wait for the controller
    priority_class: DnsName | None = None  # of the pods
    semaphore: Semaphore | None = None
    timezone: Text = "Etc/UTC"  # of schedules


class Images(Section):
    """The images of this project by digest; a tag can move, a digest cannot."""

    cpu: str
    cuda: str = ""  # needed where a step has an accelerator
    allowed: tuple[str, ...] = ()  # images of earlier runs that `rerun` may start too


class Secret(Section):
    """A Kubernetes Secret whose keys become environment variables."""

    name: DnsName
    variables: dict[Variable, Text]  # variable -> key in the Secret


class Toleration(Section):
    """As in a pod."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Volume(Section):
    """A PersistentVolumeClaim with files of yours, such as a data set or a mirror (SIDA_MIRROR); steps only read there."""

    claim: DnsName  # in the namespace of the pods: KFP's, TrainJobs', and job_namespace for rerun
    path: Text  # where the pod sees it; a recipe's addresses start with it
    folder: str = ""  # a part of the volume; empty: all of it

    @field_validator("path")
    @classmethod
    def _is_free(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
            raise ValueError("write an absolute path below /, such as /data")
        for taken in TAKEN:
            if path.is_relative_to(taken) or PurePosixPath(taken).is_relative_to(path):
                raise ValueError(f"{taken} is the pod's own: choose another, such as /data")
        return str(path)

    @field_validator("folder")
    @classmethod
    def _is_inside(cls, value: str) -> str:
        if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
            raise ValueError("write a path inside the volume, without .. and without / in front")
        return value


class Cache(Section):
    """Where pods keep copies of the store's objects; without it in the pod's own /tmp, up to 10 GiB."""

    claim: DnsName | None = None  # shared by pods, which write there, all with one user
    size: Quantity | None = None  # of a volume of the pod's own, or how much of a claim
    storage_class: DnsName | None = None  # of the pod's own volume; None: an emptyDir, on the node's disk

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Cache:
        if self.claim is None and self.size is None:
            raise ValueError("give a size such as 50Gi (a volume of the pod's own), or a claim")
        if self.claim is not None and self.storage_class is not None:
            raise ValueError("storage_class: a claim has one already: give one of the two")
        return self


class StepNeeds(Section):
    """What a step asks of its node. A field that is left out is taken from ``default``."""

    cpu: Cores | None = None  # requested; None: processes times threads of the recipe's execution
    cpu_limit: Cores | None = None  # None: as many as are idle
    memory: Quantity | None = None  # requested, and the limit
    accelerator: Text | None = None  # a resource such as nvidia.com/gpu: one for each process
    node_selector: dict[str, str] | None = None
    tolerations: tuple[Toleration, ...] | None = None
    shared_memory: Quantity | None = None  # size of /dev/shm
    volumes: tuple[Volume, ...] | None = None  # in the step's pod, and in the pods of its TrainJob
    cache: Cache | None = None
    retries: Count | None = None
    backoff_seconds: Seconds | None = None  # before a lost pod's first retry; doubles. Failures are told so much later
    timeout_seconds: Seconds | None = None
    launcher: Literal["local", "trainjob"] | None = None  # where the heavy part runs: the step's pod, or a TrainJob
    nodes: Annotated[int, Field(ge=1)] | None = None  # of the TrainJob; the processes are shared out over them
    processes: Annotated[int, Field(ge=1, le=2**24)] | None = None  # over all nodes; None: the recipe's


class TrainJobs(Section):
    """Kubeflow Trainer: where the heavy part of steps with ``launcher: trainjob`` runs. The step's own pod only follows it."""

    namespace: DnsName
    runtime: DnsName = "sida-torch"  # `sida runtime` prints ours
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    queue: DnsName | None = None  # of Kueue: a LocalQueue of `namespace`, and of `job_namespace` for rerun's heavy Jobs
    priority_class: DnsName | None = (
        None  # a WorkloadPriorityClass of Kueue: who goes first in the queue, and may preempt
    )
    service_account: DnsName | None = None  # of the TrainJob's pods
    launcher_account: DnsName | None = None  # of rerun's Jobs that launch one; None: job_service_account
    on_termination: Literal["delete", "suspend", "keep"] = "delete"  # what becomes of the job of a step that is ended
    grace_seconds: Seconds | None = None  # of its pods, from SIGTERM to SIGKILL; None: by the size of the checkpoints
    abandoned_seconds: Seconds = 3600  # without a launching step the job ends itself after so long
    outage_seconds: Seconds = 6 * 3600  # how long to tolerate an outage of the Kubernetes API
    cpu: Cores = "250m"  # of the launching step's pod
    cpu_limit: Cores | None = None
    memory: Quantity = "2Gi"


class Webhook(Section):
    """Webhook called when a score got worse. Its URL is a secret, a key of a Kubernetes Secret: anyone who has it can post."""

    secret: DnsName
    key: Text = "url"


class Profile(Section):
    """One cluster."""

    description: str = ""
    engine: Literal["kubeflow", "argo"] = "kubeflow"  # which of the next two sections counts
    kfp: Kfp = Kfp()
    argo: Argo = Argo()
    store: Annotated[str, Field(pattern=r"^s3://[^/\s'\"\\]+(/[^\s'\"\\]*)?$")]  # what the steps see as SIDA_STORE
    images: Images
    env: dict[Variable, str] = {}
    mlflow_ui: HttpAddress | None = None  # MLflow for people, where it is not MLFLOW_TRACKING_URI; for links
    secrets: tuple[Secret, ...] = ()
    image_pull_secrets: tuple[DnsName, ...] = ()
    job_namespace: DnsName | None = None  # of the Jobs that `rerun` prints
    job_service_account: DnsName | None = None
    run_as_user: Annotated[int, Field(ge=1)] = 1000  # of every pod: numeric, so that Kubernetes can see it is not root
    trainjob: TrainJobs | None = None
    webhook: Webhook | None = None
    default: StepNeeds = StepNeeds()
    steps: dict[str, StepNeeds] = {}

    @model_validator(mode="after")
    def _env_holds_no_secret(self) -> Profile:
        for name, value in self.env.items():
            refuse_secret(f"env.{name}", name, value, "name a Kubernetes Secret under `secrets`")
        refuse_secret("mlflow_ui", "mlflow_ui", self.mlflow_ui or "", "the reader's browser logs in")
        fields = self.model_dump(mode="json")
        check_texts(fields)
        for field, text in texts(fields):  # the engines fill in what stands in such braces, Argo by evaluating it
            if "{{" in text:
                raise ValueError(f"{field}: {one_line(text, 80)!r} holds a placeholder, {{{{: write the value itself")
        return self

    @model_validator(mode="after")
    def _steps_are_known(self) -> Profile:
        for step in self.steps:
            if step not in STEPS:
                raise ValueError(f"steps.{step}: no such step; {nearest(step, STEPS) or ', '.join(STEPS)}")
        return self

    @model_validator(mode="after")
    def _volumes_are_apart(self) -> Profile:
        for place, needs in (
            {"default": self.default} | {f"steps.{step}": self.needs(step) for step in self.steps}
        ).items():
            volumes = needs.volumes or ()
            if len({volume.path for volume in volumes}) < len(volumes):
                raise ValueError(f"{place}.volumes: two at one path: give each its own")
            claims = [volume.claim for volume in volumes] + (
                [needs.cache.claim] if needs.cache and needs.cache.claim else []
            )
            if twice := {
                claim for claim in claims if claims.count(claim) > 1
            }:  # its driver names volumes by their claims
                raise ValueError(
                    f"{place}.volumes: claim {min(twice)} twice, which Kubeflow Pipelines cannot mount: use it once"
                )
        return self

    @model_validator(mode="after")
    def _launchers_are_possible(self) -> Profile:
        for step, needs in self.steps.items():
            if needs.launcher == "trainjob" and step not in LAUNCHED:
                raise ValueError(
                    f"steps.{step}.launcher: this step is light; these can be TrainJobs: {', '.join(LAUNCHED)}"
                )
        if self.trainjob is None and any(self.launched(step) for step in LAUNCHED):
            raise ValueError("trainjob: launcher: trainjob needs this section, with a namespace at least")
        return self

    @model_validator(mode="after")
    def _priority_is_in_a_queue(self) -> Profile:
        if self.trainjob is not None and self.trainjob.priority_class and not self.trainjob.queue:
            raise ValueError("trainjob.priority_class: it orders Kueue's queues: name one with trainjob.queue")
        return self

    @model_validator(mode="after")
    def _limits_are_possible(self) -> Profile:
        places = {"default": self.default} | {f"steps.{step}": self.needs(step) for step in self.steps}
        for place, asked in (places | ({"trainjob": self.trainjob} if self.trainjob else {})).items():
            if asked.cpu_limit is None:
                continue
            if asked.cpu is None:
                raise ValueError(f"{place}.cpu_limit: give cpu too, which is what is requested")
            if amount(asked.cpu) > amount(asked.cpu_limit):
                raise ValueError(f"{place}.cpu_limit: {asked.cpu_limit} is less than cpu, {asked.cpu}: raise it")
        return self

    @property
    def namespace(self) -> str:
        """Namespace of the engine's runs and their pods."""
        return self.argo.namespace if self.engine == "argo" else self.kfp.namespace or KFP_NAMESPACE

    def launched(self, step: str) -> bool:
        """Return whether the step's heavy part runs in a TrainJob."""
        return step in LAUNCHED and self.needs(step).launcher == "trainjob"

    def needs(self, step: str) -> StepNeeds:
        """Return what a step asks for, defaults filled in."""
        own = {name: value for name, value in self.steps.get(step, StepNeeds()) if value is not None}
        return self.default.model_copy(update=own)

    def mounts(self, step: str, path: str) -> bool:
        """Return whether a volume brings the file at ``path`` to a step."""
        volumes = self.needs(step).volumes or ()
        return any(PurePosixPath(path).is_relative_to(volume.path) for volume in volumes)

    def image_for(self, step: str) -> tuple[str, str]:
        """Return (field, image) for a step: the CUDA image where it has an accelerator."""
        return ("images.cuda", self.images.cuda) if self.needs(step).accelerator else ("images.cpu", self.images.cpu)

    def variables(self) -> dict[str, str]:
        """Return the plain environment of every step."""
        link = {"SIDA_MLFLOW_UI": self.mlflow_ui} if self.mlflow_ui else {}
        return {"SIDA_STORE": self.store, "SIDA_PATIENCE": PATIENCE} | link | self.env

    def allowed_images(self) -> list[str]:
        """Return the images that `rerun` may start."""
        return [image for image in (self.images.cpu, self.images.cuda, *self.images.allowed) if image]


def has_digest(image: str) -> bool:
    """Return whether an image is named by its digest."""
    return re.fullmatch(DIGEST, image) is not None


def check_image(field: str, image: str, profile: str, *, allow_tags: bool = False) -> str:
    """Return the image itself. Raises UserError for none, or for one without a digest unless tags are allowed."""
    if not image:
        raise UserError(
            f"{profile}: {field} is empty: build and push the image, then write REGISTRY/NAME@sha256:DIGEST "
            f"(`buildah push --digestfile`, `docker buildx imagetools inspect` and `skopeo inspect` tell it)"
        )
    if not has_digest(image) and not allow_tags:
        raise UserError(
            f"{profile}: {field} {image!r} has no digest, so that it can change under a run: write NAME@sha256:64 hex digits, "
            f"or give --allow-tags"
        )
    return image


# -- reading


class ProfileLoader(Loader):
    """As recipes are read, but with some aliases: steps share node pools. Not so many that they multiply into a bomb."""

    most_aliases = 32  # nested as densely as can be they name some 3^(32/3), a hundred thousand, values


def load(name: str) -> Profile:
    """Return the profile called ``name``, or in the file ``name``. Raises UserError with the field's path."""
    path = find_file("profile", name, PROFILES, f"there are: {', '.join(names(PROFILES))}")
    data = read_fields(path, "profile", ProfileLoader)
    try:
        return Profile.model_validate_json(json.dumps(data, default=str), strict=True)
    except UserError as error:  # of a text
        raise UserError(f"{path.name}: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path.name}: {fault(error, Profile)}") from error
    except (TypeError, ValueError) as error:  # a key that JSON does not have, such as a date
        raise UserError(f"{path.name}: {error}; use numbers, text, lists and mappings only") from error
