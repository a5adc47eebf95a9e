"""From recipe and profile to what an engine takes: Kubeflow's IR YAML or its Kubernetes objects, or Argo's WorkflowTemplate."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from pipeline.dag import build
from pipeline.engines.argo_template import workflow_template
from pipeline.plan import Plan
from pipeline.pod import StepPod, pod_of
from pipeline.profile import READS, Profile
from sida import recipe as recipes
from sida.errors import UserError
from sida.manifests import digest_of
from sida.printing import one_line
from sida.recipe import Recipe
from sida.scoring.gates import target_of
from sida.scoring.table import released_recipes

# name -> the step that the DAG ends with
PIPELINES = {"reproduce": "report", "score_published": "published_table"}
RECIPE_BYTES = 100_000
LONGEST_STEM = 50  # of a WorkflowTemplate's name: with the digest's 13 characters it has to be a label of Workflows
EXIT_TASK = "record_end"  # the last, whatever happened


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: its name, the text of its file, and a digest of what it says."""

    name: str
    text: str
    digest: str

    @property
    def version(self) -> str:
        """Name of the version as a Kubernetes object: the same digest is the same version."""
        return f"{self.name}-{self.mark}"

    @property
    def mark(self) -> str:
        """Return the end of the version's name: the same digest is never uploaded twice."""
        return self.digest[:12]


@dataclass(frozen=True)
class OnCluster:
    """The cluster's part of a pipeline, beyond its DAG."""

    recipe: Recipe
    profile: Profile | None  # None: the recipe's part only, images left as they stand in the components
    where: str = ""  # the profile's name, for messages
    allow_tags: bool = False
    image: str = ""  # in place of the profile's

    def configure(self, step: str, task: Any) -> None:
        """Set on a step's task what recipe and profile say about it: image, environment, resources, retries."""
        self.pod(step).as_kfp(task)

    def pod(self, step: str) -> StepPod:
        """Return a step's pod."""
        return pod_of(step, self.recipe, self.profile, self.where, allow_tags=self.allow_tags, image=self.image)

    def ending(self, recipe: Any, name: str) -> Any:
        """Return the context manager around all steps: an exit handler that records how the run ended."""
        from kfp import dsl, kubernetes

        from pipeline.exit_handler import record_end

        task = record_end(recipe=recipe, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        task.set_caching_options(False)
        self.configure(EXIT_TASK, task)
        if self.profile is not None and (webhook := self.profile.webhook) is not None:
            kubernetes.use_secret_as_env(task, webhook.secret, {webhook.key: "SIDA_WEBHOOK"})
        return dsl.ExitHandler(task, name=name)


# -- the recipe on a cluster


def recipe_parameter(name: str, recipe: Recipe, profile: Profile | None) -> tuple[str, bytes | None]:
    """The pipeline's parameter ``recipe``, and the object that has to be in the store for it (``sida.steps.recipe_key``).

    A recipe of the project goes by name, for it is in the image; a user's own by the address of its resolved form, in which files
    of the project have addresses that pods know too. Raises UserError for one that is too large, or names files
    that neither the image has, by digest, nor a volume of the profile brings to the pods.
    """
    if (path := recipes.find(name)).parent == recipes.RECIPES:
        return path.stem, None
    content = recipes.traveling(recipe)  # as sida.steps.recipe_address stores it
    if len(content) > RECIPE_BYTES:
        raise UserError(f"recipe {name}: {len(content):,} bytes resolved, at most {RECIPE_BYTES:,} travel: shorten it")
    for field, address in recipes.addresses(recipe).items():
        if not address.startswith("file://") or field not in READS:
            continue
        if recipes.portable(address) != address:
            _check_pinned(name, field, address, recipe)
            continue
        step = READS[field]
        if profile is None or not profile.mounts(step, unquote(urlsplit(address).path)):
            raise UserError(
                f"{field} {one_line(address, 60)} is a file of this machine, which pods cannot read: put it into the store (data "
                f"as one zip or tar) and write its s3:// address, or mount a volume: steps.{step}.volumes in the profile"
            )
    digest = hashlib.sha256(content).hexdigest()
    return f"{recipe.name}#sha256={digest}", content


def _check_pinned(name: str, field: str, address: str, recipe: Recipe) -> None:
    """A file of the project is known by its digest, for an image may be of another version."""
    section: Any = recipe
    for part in field.split(".")[:-1]:
        section = getattr(section, part)
    if section.sha256 is None:
        raise UserError(
            f"recipe {name}: {field} {address} comes with the project, but has no sha256, by which pods know that their "
            f"image has the very file: `sida pin {name}`"
        )


# -- compiling


def plan_for(
    name: str,
    recipe: Recipe,
    pipeline: str = "reproduce",
    force: Iterable[str] = (),
    profile: Profile | None = None,
) -> Plan:
    """The plan of one of PIPELINES for a recipe, as Kubeflow shows it."""
    if pipeline not in PIPELINES:
        raise UserError(f"no pipeline {pipeline!r}: there are: {', '.join(PIPELINES)}")
    parameter, _ = recipe_parameter(name, recipe, profile)
    if pipeline == "score_published":
        return _published_plan(recipe, parameter)
    plan = Plan.of(recipe, parameter, PIPELINES[pipeline], force)
    return replace(
        plan, pipeline=title_of(recipe, pipeline), group=recipe.title, description=" ".join(recipe.description.split())
    )


def title_of(recipe: Recipe, pipeline: str) -> str:
    """Name of a pipeline on its engine, and of its schedule where the user gives none."""
    return f"sida-{recipe.name}" + ("" if pipeline == "reproduce" else f"-{pipeline.replace('_', '-')}")


def _published_plan(recipe: Recipe, parameter: str) -> Plan:
    """All released generators of the recipe's benchmark."""
    same = [name for name in recipes.names() if recipes.load(name).benchmark == recipe.benchmark and recipe.benchmark]
    with_target = [name for name in same if recipes.load(name).released and target_of(recipes.load(name)) is not None]
    if not with_target:
        raise UserError(f"recipe {recipe.name}: no generator of its benchmark was released: see `list`")
    return Plan(
        recipe.name,
        parameter,
        PIPELINES["score_published"],
        pipeline=title_of(recipe, "score_published"),
        group=f"released generators, {recipe.benchmark}",
        description=f"Score the generators released for {recipe.benchmark}",
        published=tuple(released_recipes(with_target)),
    )


def compiled(plan: Plan, cluster: OnCluster, *, kubernetes: bool = False) -> Compiled:
    """Compile for the profile's engine; ``kubernetes`` gives Pipeline and PipelineVersion objects in place of Kubeflow's IR YAML.

    Kubernetes objects carry the digest of what they say in the version's name, so that a change is a new version.
    """
    profile = cluster.profile
    if profile is not None and profile.engine == "argo":
        template = workflow_template(plan, cluster, profile)
        digest = digest_of(template)
        unnamed = Compiled(plan.pipeline[:LONGEST_STEM].rstrip("-"), "", digest)
        template["metadata"]["name"] = unnamed.version
        return replace(unnamed, text=yaml.safe_dump(template, sort_keys=False, width=1000))
    namespace = {"namespace": profile.kfp.namespace if profile else None} if kubernetes else None
    return compiled_pipeline(plan.pipeline, build(plan, cluster=cluster), namespace)


def compiled_pipeline(name: str, function: Any, kubernetes: Mapping[str, str | None] | None = None) -> Compiled:
    """Compile any kfp pipeline."""
    text = _compile(function)
    compiled = Compiled(name, text, _digest(text))
    if kubernetes is None:
        return compiled
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    options = KubernetesManifestOptions(
        pipeline_name=name,
        pipeline_version_name=compiled.version,
        namespace=kubernetes.get("namespace"),
        include_pipeline_manifest=True,
    )
    return replace(
        compiled, text=_compile(function, kubernetes_manifest_format=True, kubernetes_manifest_options=options)
    )


def _compile(function: Any, **options: Any) -> str:
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(function, str(path), **options)
        return path.read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """sha256 of what the file says, whatever its layout."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one, is ten times as fast
    documents = list(yaml.load_all(text, Loader=loader))
    return hashlib.sha256(json.dumps(documents, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
