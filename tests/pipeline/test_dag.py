"""The DAG: what follows what, what is forced, and that kfp compiles the real components into it."""

from pathlib import Path

import pytest
import yaml

from components.component import component_of
from components.interface import description_of, outputs_of, parameters_of
from pipeline.dag import build
from pipeline.plan import Plan
from sida import recipe as recipes
from sida.errors import UserError
from sida.registry import STEPS


def plan(**values: object) -> Plan:
    return Plan("toy", "objects/ab/abc.json#sha256=abc", **values)  # type: ignore[arg-type]


def compiled(what: Plan, folder: Path) -> dict[str, dict[str, object]]:
    from kfp import compiler

    path = folder / "pipeline.yaml"
    compiler.Compiler().compile(build(what), str(path))
    return dict(next(yaml.safe_load_all(path.read_text()))["root"]["dag"]["tasks"])


@pytest.mark.parametrize("name", recipes.names())
def test_no_artifact_reaches_two_inputs_of_one_step_of_any_recipe(name: str) -> None:
    """Kubeflow's metadata store refuses that: the task's driver dies, and the run with it (seen)."""
    for step, sources in Plan.of(recipes.load(name), "").tasks().items():
        assert len(set(sources.values())) == len(sources), step


def test_the_graph_is_the_readme_s_and_sid2a_s_generator_comes_beside_it() -> None:
    edges = {(source.split(".")[0], step) for step, sources in plan().tasks().items() for source in sources.values()}
    assert edges == {
        ("prepare_data", "reference_statistics"),
        ("fetch_teacher", "score_teacher"),
        ("reference_statistics", "score_teacher"),
        ("score_teacher", "distill"),
        ("distill", "score"),
        ("reference_statistics", "score"),
        ("score_teacher", "compare"),
        ("score", "compare"),
        ("compare", "report"),
    }
    assert plan(fetch_generator=True).tasks()["distill"]["start"] == "fetch_generator.generator"


def test_every_input_is_the_result_of_the_steps_that_it_names() -> None:
    for step in STEPS.values():
        for taken in step.inputs.values():
            assert {STEPS[maker].result for maker in taken.makers} == {taken.kind}, (step.name, taken.name)


@pytest.mark.parametrize("name", STEPS)
def test_a_component_says_what_it_takes_and_makes(name: str) -> None:
    described = [*parameters_of(STEPS[name]), *outputs_of(STEPS[name])]
    assert description_of(STEPS[name]).endswith(".")
    assert all(part.text.endswith(".") for part in described), described
    spec = component_of(name).component_spec
    assert {*spec.inputs, *spec.outputs} == {part.name for part in described}
    assert all(flag.description for flag in spec.inputs.values())


def test_every_step_comes_after_the_steps_it_needs() -> None:
    seen: set[str] = set()
    for step, sources in plan().tasks().items():
        assert {source.split(".")[0] for source in sources.values()} <= seen
        seen.add(step)
    assert list(plan().tasks())[-1] == "report"


def test_kfp_compiles_it_with_the_gate_before_distilling_and_its_own_cache_off(tmp_path: Path) -> None:
    tasks = compiled(plan(), tmp_path)
    assert set(tasks) == {
        *("fetch-teacher", "prepare-data", "reference-statistics"),
        *("score-teacher", "distill", "score", "compare", "report"),
    }
    assert "score-teacher" in tasks["distill"]["dependentTasks"]  # type: ignore[operator]
    assert not any(task["cachingOptions"] for task in tasks.values())


def test_a_recipe_that_trains_its_teacher_has_teach_in_place_of_fetch_teacher(tmp_path: Path) -> None:
    tasks = compiled(plan(train_teacher=True), tmp_path)
    assert "fetch-teacher" not in tasks
    assert "teach" in tasks["score-teacher"]["dependentTasks"]  # type: ignore[operator]
    assert list(plan(train_teacher=True, goal="teach").tasks()) == ["prepare_data", "teach"]


def test_forcing_a_step_forces_all_that_follow_it_and_nothing_else() -> None:
    assert plan(force=("score_teacher",)).forced() == {"score_teacher", "distill", "score", "compare", "report"}
    assert plan(force=("compare",)).forced() == {"compare", "report"}
    assert plan().forced() == set()


def test_a_step_that_this_run_does_not_have_cannot_be_forced() -> None:
    with pytest.raises(UserError, match="teach"):
        plan(force=("teach",))


def test_a_plan_survives_the_way_to_another_process() -> None:
    there = plan(force=("score",), goal="report")
    assert Plan.from_json(there.to_json()) == there
