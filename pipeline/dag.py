"""A plan as a kfp pipeline, for Kubeflow and for kfp's local runner.

kfp is imported by ``build`` only, so that the command line can check a step's name without it. It reads the annotations of the
pipeline's function: no ``from __future__ import annotations`` here.
"""

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from pipeline.plan import Plan
from sida.registry import STEPS
from sida.steps.execute import SCHEDULED

if TYPE_CHECKING:
    from pipeline.compile import OnCluster
    from sida.records import StepCall


def build(plan: Plan, components: str = "components", cluster: "OnCluster | None" = None) -> Any:
    """Return the kfp pipeline of a plan; ``components`` is the package whose ``component_of`` gives each step's component.

    Its parameters: ``recipe``, the address of the resolved recipe, and ``repeat`` (see ``sida.steps.execute.repetition``).
    """
    from kfp import dsl

    forced, place = plan.forced(), _placing(plan, components, cluster)
    again = SCHEDULED if cluster else ""  # a schedule created in Kubeflow's own pages measures each time
    name, description = f"sida-{plan.recipe}", plan.description or f"Distill and score: {plan.recipe}"
    if plan.published:
        name, description = "sida-score-published", "Score the generators that the authors released"

    @dsl.pipeline(name=plan.pipeline or name, description=description)
    def benchmark(recipe: str = plan.address, repeat: str = again):  # type: ignore[no-untyped-def]
        """Distill a diffusion model to one step and score it.

        Args:
            recipe: Name of a recipe in the image, or address of a resolved one in the store with its digest.
            repeat: "scheduled": the scores are measured anew, under the time of the run, so that each firing of a schedule
                measures. "reuse": scores that are there are taken. Any other text: once for each text.
        """
        with cluster.ending(recipe, plan.group) if cluster else nullcontext():
            if not plan.published:
                for step in plan.tasks():
                    place(step, recipe, repeat, attempt="new" if step in forced else "")
                return
            *each, table = plan.tasks()
            with dsl.ParallelFor(items=list(plan.published), parallelism=1) as item:
                for step in each:  # a recipe that fails is named at the end; the others go on
                    place(step, item, repeat, one_of_many=True)
            place(table, recipe, repeat)

    return benchmark


def one_step(call: "StepCall", arguments: list[str], cluster: "OnCluster") -> Any:
    """Return the kfp pipeline of one container that repeats a recorded step."""
    from kfp import dsl

    pod = cluster.pod(call.step)

    def again():  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image=pod.image, command=["sida", "step", call.step], args=arguments)

    again.__name__ = call.step
    component, dashed = dsl.container_component(again), call.step.replace("_", "-")

    @dsl.pipeline(name=f"sida-rerun-{dashed}", description=f"{call.step} of run {call.run}, again")
    def rerun():  # type: ignore[no-untyped-def]
        task = component()
        task.set_caching_options(False)
        cluster.configure(call.step, task)

    return rerun


def _placing(plan: Plan, package: str, cluster: "OnCluster | None") -> Callable[..., None]:
    """Return a function that places a step's task in the pipeline that is being built, wired to those placed before it."""
    from kfp import dsl

    component_of = importlib.import_module(f"{package}.component").component_of
    tasks = plan.tasks()
    steps = {step: component_of(step) for step in tasks}
    always, timed = {}, {}
    if cluster:
        # As the whole constant of a task's input KFP fills them in; inside of a parameter's value it does not (seen on 2.17).
        always = {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        timed = {"scheduled": dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER}
    created: dict[str, Any] = {}

    def place(step: str, recipe: Any, repeat: Any, **more: Any) -> None:
        inputs: dict[str, Any] = {}
        for name, source in tasks[step].items():
            maker, output = source.split(".")
            result = created[maker].outputs[output]
            inputs[name] = dsl.Collected(result) if STEPS[step].inputs[name].many else result
        if STEPS[step].measures:
            inputs |= {"repeat": repeat, **timed}
        created[step] = steps[step](recipe=recipe, **always, **inputs, **more)
        created[step].set_caching_options(False)  # our keys decide: kfp's cannot see deleted objects
        if cluster:
            cluster.configure(step, created[step])

    return place
