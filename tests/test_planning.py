"""`plan`: memory by part, hours, storage, and what to change; on a counted cost that is given here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from scripts import benchmarks
from sida import gpus as known
from sida import planning, recipe
from sida.advice import advice, alternatives, best, better, settings_of
from sida.errors import UserError
from sida.gpus import GPUS, Machines
from sida.launch import grace
from sida.planning import GIB, plan
from sida.recipe import Execution, Recipe
from sida.scoring.also import also
from sida.training.cost import Blocks, IterationCost, PhaseCost
from tests.pipeline.test_verbs import pipeline

COST = IterationCost(
    10**9,
    10**7,
    10**12,
    3 * 10**11,
    PhaseCost(5 * 10**12, GIB // 4, 0, 0),
    PhaseCost(7 * 10**12, GIB // 2, GIB, 0),
    Blocks(10**9, 3 * 10**8, 5 * 10**7),
)
P = 4e9  # bytes of a network


def of(
    name: str = "cifar10-uncond", gpus: int = 4, gpu: str = "h100", micro: int | None = None
) -> planning.ResourcePlan:
    return plan(recipe.load(name), COST, Machines(1, gpus, GPUS[gpu]), micro)


def others(made: planning.ResourcePlan) -> list[planning.ResourcePlan]:
    """All layouts; blocks that are computed again take a third more work, and an eighth of the activations."""

    def count(execution: Execution) -> IterationCost:
        if not execution.activation_checkpointing:
            return made.cost
        a, b = (
            replace(part, flops=part.flops * 4 // 3, bytes_per_image=part.bytes_per_image // 8)
            for part in (made.cost.A, made.cost.B)
        )
        return replace(made.cost, A=a, B=b)

    return alternatives(made, count)


def sharded(
    shard: str, machines: Machines, over: int | None = None, cost: IterationCost = COST
) -> planning.ResourcePlan:
    loaded = recipe.load("ffhq-64")
    execution = loaded.execution.model_copy(update={"shard": shard, "shard_over": over})
    return plan(loaded.model_copy(update={"execution": execution}), cost, machines)


def test_states_of_the_networks_are_ten_times_the_parameters_in_float32() -> None:
    made = of()
    states = [value for name, value in made.memory.items() if name.split()[0] in ("weights", "teacher", "EMA,", "Adam")]
    assert sum(states) == 9 * 4e9
    assert made.memory["gradients (one network at a time)"] == 4e9
    assert made.memory["activations at the micro-batch"] == 17 * GIB  # phase B's: a round's, and 32 images'


def test_a_smaller_micro_batch_needs_less_memory_and_more_rounds() -> None:
    whole, small = of(micro=64), of(micro=32)
    assert (whole.division.rounds, small.division.rounds) == (1, 2)
    assert small.memory_bytes < whole.memory_bytes
    assert small.work == whole.work


def test_hours_are_flops_over_a_stated_share_of_the_peak() -> None:
    made = of()
    flops = 300e6 * COST.A.flops + (300e6 - 100e3) * COST.B.flops  # phase B is left out of the warm-up
    expected = flops / (67e12 * known.UTILIZATION) / 3600
    assert made.work.distilling == pytest.approx(expected)
    assert made.hours == pytest.approx(made.work.total / 4)
    half = of("ffhq-64")  # float16
    flops -= 100e6 * (COST.A.flops + COST.B.flops)
    assert half.work.distilling == pytest.approx(flops / (989e12 * known.UTILIZATION) / 3600)
    data_free = of("cifar10-uncond-sid")  # without warm-ups
    images = recipe.load("cifar10-uncond-sid").method.images
    assert data_free.work.distilling == pytest.approx(images * 12e12 / (67e12 * known.UTILIZATION) / 3600)
    assert 0 < made.work.selecting_share < 0.05


def test_a_second_detector_costs_at_reported_scores_alone() -> None:
    plain = recipe.load("cifar10-uncond")
    evaluation = also(plain.evaluation, ["fd_dinov2"])
    both = recipe.parse(plain.model_dump(mode="json") | {"evaluation": evaluation}, "test")
    one, two = (plan(each, COST, Machines(1, 4, GPUS["h100"]), None).work for each in (plain, both))
    # ViT-L/14: 257 tokens of 1024 channels, 24 blocks of 12 x 1024^2 weights and attention among the tokens; two operations each
    flops = 2 * (24 * (257 * 12 * 1024**2 + 2 * 257**2 * 1024) + 256 * 3 * 14**2 * 1024)
    hours = 150_000 * flops / (67e12 * known.UTILIZATION) / 3600
    assert two.scoring - one.scoring == pytest.approx(hours, rel=0.01)
    assert two.scoring_teacher - one.scoring_teacher == pytest.approx(hours, rel=0.01)
    assert two.selecting == one.selecting


def test_masks_take_time_in_float32_s_units_and_no_other() -> None:
    masked = replace(COST, A=replace(COST.A, masks=10**7), B=replace(COST.B, masks=2 * 10**7))
    for name in ("cifar10-uncond", "ffhq-64"):  # float32, float16
        loaded, machines = recipe.load(name), Machines(1, 4, GPUS["h100"])
        without, made = (plan(loaded, cost, machines).work for cost in (COST, masked))
        masks = loaded.method.images * 1e7 + (loaded.method.images - 100e3) * 2e7
        expected = masks * planning.MASK_FLOPS / (67e12 * known.UTILIZATION) / 3600
        assert made.distilling - without.distilling == pytest.approx(expected)
        assert replace(made, distilling=0) == replace(without, distilling=0)


def test_tf32_has_a_peak_of_its_own_for_the_networks_and_none_for_the_detector() -> None:
    plain = recipe.load("cifar10-uncond")
    rounded = plain.model_copy(update={"method": plain.method.model_copy(update={"precision": "tf32"})})

    def work(chosen: Recipe, gpu: str) -> planning.Work:
        return plan(chosen, COST, Machines(1, 4, GPUS[gpu])).work

    for gpu, gain in (("a100", 156 / 19.5), ("h100", 494.5 / 67), ("v100", 1)):
        assert work(plain, gpu).distilling / work(rounded, gpu).distilling == pytest.approx(gain)
    detector = 3 * 50_000 * planning.DETECTOR_FLOPS["inception"] / (67e12 * known.UTILIZATION) / 3600
    networks = 3 * 50_000 * 1e12 / (494.5e12 * known.UTILIZATION) / 3600
    assert work(rounded, "h100").scoring == pytest.approx(networks + detector)
    for gpu in GPUS.values():
        assert gpu.float32 <= gpu.tf32 < gpu.half


def test_a_generator_of_several_steps_takes_as_many_forwards_to_score_and_each_step_s_images_are_looked_at() -> None:
    one = recipe.load("cifar10-uncond")
    four = one.model_copy(update={"method": one.method.model_copy(update={"steps": 4})})
    before, after = (plan(loaded, COST, Machines(1, 4, GPUS["h100"])).work for loaded in (one, four))
    hour = 67e12 * known.UTILIZATION * 3600  # in FLOPs
    images, selected = 3 * 50_000, (300_000_000 // one.evaluation.selection_every) * one.evaluation.selection_images
    assert after.scoring - before.scoring == pytest.approx(
        images * 3 * (1e12 + planning.DETECTOR_FLOPS["inception"]) / hour
    )
    assert after.selecting - before.selecting == pytest.approx(selected * 3 * 1e12 / hour)
    assert after.scoring_teacher == before.scoring_teacher


def test_the_teacher_is_scored_on_as_many_images_as_its_gate_says() -> None:
    loaded = recipe.load("cifar10-uncond")
    few = loaded.model_copy(update={"gate": loaded.gate.model_copy(update={"teacher_images": 5_000})})
    whole, tenth = (plan(each, COST, Machines(1, 4, GPUS["h100"])).work for each in (loaded, few))
    assert tenth.scoring_teacher == pytest.approx(whole.scoring_teacher / 10)
    assert tenth.scoring == whole.scoring


def test_the_training_of_a_teacher_counts_where_the_recipe_trains_one() -> None:
    fetched = recipe.load("patches-32")  # which knows how its teacher was trained
    trained = fetched.model_copy(update={"teacher": fetched.teacher.model_copy(update={"address": None})})
    cost = replace(COST, teaching=(3 * 10**12, 10**9))
    without, with_it = (plan(each, cost, Machines(1, 2, GPUS["h100"])).work for each in (fetched, trained))
    flops = 120_000 * (3e12 + 1e9 * 100)  # a mask's element counts as 100 operations
    hours = flops / (67e12 * known.UTILIZATION) / 3600
    assert (without.teaching, with_it.teaching) == (0, pytest.approx(hours))
    assert with_it.total - without.total == pytest.approx(hours)


def test_what_does_not_fit_is_told_what_would() -> None:
    made = of(gpu="v100")
    assert not made.fits
    assert any("--gpu" in word for word in advice(made, []))
    large = of(gpu="l40s", micro=64, gpus=1)
    said = advice(large, others(large))
    for word in said:
        if word.startswith("execution.micro_batch"):
            micro = int(word.split()[1])
            assert of(gpu="l40s", micro=micro, gpus=1).fits


def test_advice_keeps_the_numbers_first() -> None:
    parts = PhaseCost(5 * 10**12, 0, 0, 0), PhaseCost(7 * 10**12, GIB, 0, 0), Blocks(10**8, 10**7, 10**6)
    made = plan(
        recipe.load("cifar10-uncond"),
        IterationCost(10**8, 10**6, 10**12, 10**11, *parts),
        Machines(1, 1, GPUS["h100"]),
        128,
    )
    assert not made.fits
    assert advice(made, others(made))[0] == "execution.micro_batch: 64 (the numbers stay the same)"


@pytest.mark.parametrize(
    ("shard", "weights", "teacher", "averages"),
    [("none", 2, 1, 2), ("optimizer", 2 + 2 / 4, 1, 2 / 4), ("full", 2 / 4, 1 / 4, 2 / 4)],
)
def test_a_layout_holds_its_part_of_each_state(shard: str, weights: float, teacher: float, averages: float) -> None:
    memory = sharded(shard, Machines(1, 4, GPUS["h100"])).memory
    assert memory["weights (fake score, generator)"] == weights * P
    assert memory["teacher"] == teacher * P
    assert memory["EMA, and the best so far"] == averages * P
    assert memory["Adam (two moments each)"] == 2 * averages * P
    assert (memory["gathered weights of blocks"] > 0) is (shard == "full")


def test_what_lies_outside_of_blocks_stays_whole() -> None:
    cost = replace(COST, blocks=replace(COST.blocks, all=9 * 10**8))
    memory = sharded("full", Machines(1, 4, GPUS["h100"]), cost=cost).memory
    assert memory["teacher"] == pytest.approx((0.1 + 0.9 / 4) * P)


def test_gradients_are_whole_while_rounds_add_up() -> None:
    loaded = recipe.load("imagenet-512-edm2-xxl")
    for shard, part in (("none", 1), ("optimizer", 1 / 4), ("full", 1 / 4)):
        execution = loaded.execution.model_copy(update={"shard": shard})
        for micro, expected in ((2048 // 4, part), (2048 // 8, 1)):
            made = plan(loaded.model_copy(update={"execution": execution}), COST, Machines(1, 4, GPUS["h100"]), micro)
            assert made.memory["gradients (one network at a time)"] == expected * P


def test_a_copy_is_shared_on_a_machine_or_by_machines_of_one_gpu_or_as_the_recipe_says() -> None:
    shared = [
        (sharded("full", Machines(nodes, gpus, GPUS["h100"]), over).layout, expected)
        for nodes, gpus, over, expected in (
            (2, 4, None, 4),
            (8, 1, None, 8),
            (2, 4, 8, 8),
            (2, 4, 2, 2),
            (1, 1, None, 1),
        )
    ]
    assert [layout.over for layout, _ in shared] == [expected for _, expected in shared]
    assert [layout.copies for layout, _ in shared] == [2, 1, 1, 4, 1]
    assert shared[-1][0].shard == "none"
    with pytest.raises(UserError, match=r"groups of 3 that share a copy: set execution\.shard_over to 2, 4, or"):
        sharded("full", Machines(1, 4, GPUS["h100"]), 3)


def test_waits_are_a_third_of_messages_that_work_covers_and_all_that_it_does_not() -> None:
    def waiting(shard: str, gpu: str, over: int | None = None, **machine: float) -> float:
        nodes = int(machine.pop("nodes", 1))
        return sharded(shard, Machines(nodes, 4 // nodes, GPUS[gpu], **machine), over).work.waiting

    loaded = recipe.load("ffhq-64")
    iterations = loaded.method.images / loaded.method.batch
    moved = (loaded.method.images - loaded.method.generator_from) / loaded.method.batch
    reduced = 2 * P * 3 / 4 / (450e9 * known.LINK_UTILIZATION)  # an all-reduce among 4
    assert waiting("none", "h100") == pytest.approx(4 * (iterations + moved) * reduced / 3 / 3600)
    # A gather and a reduction that scatters are as long as an all-reduce: of each network in an iteration.
    assert waiting("optimizer", "h100") == pytest.approx(waiting("none", "h100"))
    assert waiting("full", "h100") > 2 * waiting("optimizer", "h100")
    assert waiting("full", "l4") > 10 * waiting("full", "h100")
    # Two machines: within them as without; between them a network that is slower than NVLink.
    assert waiting("full", "h100", nodes=2) > waiting("full", "h100")
    assert waiting("full", "h100", over=4, nodes=2) > waiting("full", "h100", nodes=2)
    assert waiting("full", "h100", nodes=2, network=400.0) < waiting("full", "h100", nodes=2)
    assert sharded("full", Machines(1, 1, GPUS["h100"])).work.waiting == 0


def test_each_step_of_a_generator_gathers_it_where_nothing_stays_gathered() -> None:
    def waiting(shard: str, steps: int) -> float:
        loaded = recipe.load("ffhq-64")
        changed = {
            "execution": loaded.execution.model_copy(update={"shard": shard}),
            "method": loaded.method.model_copy(update={"steps": steps}),
        }
        return plan(loaded.model_copy(update=changed), COST, Machines(1, 4, GPUS["h100"])).work.waiting

    loaded = recipe.load("ffhq-64")
    rounds = sharded("full", Machines(1, 4, GPUS["h100"])).division.rounds
    iterations = loaded.method.images / loaded.method.batch
    moved = (loaded.method.images - loaded.method.generator_from) / loaded.method.batch
    gathered = P * 3 / 4 / (450e9 * known.LINK_UTILIZATION)
    added = 4 * (iterations + moved) * rounds * 3 * gathered / 3 / 3600  # three more, each delays by a third
    assert waiting("full", 4) - waiting("full", 1) == pytest.approx(added)
    assert waiting("optimizer", 4) == waiting("optimizer", 1)


def test_the_layout_to_set_is_the_one_that_fits_with_the_fewest_gpu_hours() -> None:
    large = replace(COST, parameters=2 * 10**9, blocks=Blocks(2 * 10**9, 6 * 10**8, 10**8))
    made = plan(
        recipe.load("cifar10-uncond"), large, Machines(1, 4, GPUS["h100"])
    )  # ten networks of 7.5 GiB, and 17 GiB
    assert not made.fits
    listed = others(made)
    assert [(one.layout.shard, one.recipe.execution.activation_checkpointing) for one in listed] == [
        (shard, again) for again in (False, True) for shard in ("none", "optimizer", "full")
    ]
    chosen = best(listed)
    assert chosen is not None
    assert chosen.layout.shard == "optimizer"
    assert chosen.work.total == pytest.approx(min(one.work.total for one in listed if one.fits), rel=0.01)
    assert better(made, listed) is chosen
    assert settings_of(chosen, made) == "execution.shard: optimizer"
    assert advice(made, listed)[0] == "execution.shard: optimizer (the numbers stay the same)"
    assert better(chosen, listed) is None


def test_a_layout_that_fits_is_told_of_a_quicker_one() -> None:
    made = sharded("full", Machines(1, 4, GPUS["h200"]))
    chosen = better(made, others(made))
    assert made.fits
    assert chosen is not None
    assert settings_of(chosen, made).startswith("execution.shard: none")


def test_of_layouts_that_take_as_long_the_one_with_room_is_set() -> None:
    made = sharded("full", Machines(1, 4, GPUS["h100"]))
    none, optimizer = others(made)[:2]
    assert none.work.total == pytest.approx(optimizer.work.total, rel=0.01)
    assert (
        none.fits and 1.1 * none.memory_bytes > 80 * GIB > 1.1 * optimizer.memory_bytes
    )  # a GPU may take a tenth more
    chosen = better(made, others(made))
    assert chosen is not None and settings_of(chosen, made).startswith("execution.shard: optimizer")


def test_where_no_layout_fits_more_gpus_may() -> None:
    made = plan(recipe.load("cifar10-uncond"), COST, Machines(1, 1, GPUS["a10"]))
    said = advice(made, others(made))
    assert said[0].startswith("--gpus 4, execution.shard: full"), said


def test_more_gpus_than_hold_a_loss_group_may_share_it() -> None:
    parts = PhaseCost(5 * 10**12, 0, 0, 0), PhaseCost(7 * 10**12, 3 * GIB, 0, 0), Blocks(10**8, 10**7, 10**6)
    made = plan(
        recipe.load("cifar10-uncond"),
        IterationCost(10**8, 10**6, 10**12, 10**11, *parts),
        Machines(1, 1, GPUS["h100"]),
    )
    assert not made.fits and made.recipe.method.loss_group == 32  # 96 GiB of activations on any number of GPUs
    said = advice(made, alternatives(made, lambda execution: made.cost))
    assert said[0] == "--gpus 2, execution.micro_batch: 16 (the numbers stay the same)"


def test_processes_that_share_a_copy_write_a_part_of_a_checkpoint_each() -> None:
    whole = 8 * P
    for nodes, gpus, over, on_a_machine, of_a_process in (
        (1, 4, None, 1, 1 / 4),
        (2, 4, None, 1, 1 / 4),
        (2, 4, 8, 1 / 2, 1 / 8),
        (4, 1, None, 1 / 4, 1 / 4),
    ):
        made = sharded("full", Machines(nodes, gpus, GPUS["h100"]), over)
        assert made.host["copy of a checkpoint"] == made.disk["TMPDIR: a checkpoint"] == on_a_machine * whole
        assert made.grace_seconds == grace.planned(round(of_a_process * whole))


@pytest.mark.parametrize(("gpus", "gib"), [(8, 40), (4, 72)])
def test_the_largest_network_of_edm2_fits_in_a_part_of_80_gib(gpus: int, gib: float) -> None:
    for name in ("imagenet-512-edm2-xxl", "imagenet-512-edm2-xxl-sid", "imagenet-512-edm2-xxl-sid2a"):
        loaded = recipe.load(name)
        assert plan(loaded, benchmarks.counted(loaded), Machines(1, gpus, GPUS["h100"])).memory_bytes <= gib * GIB


@pytest.mark.parametrize(
    ("gpus", "micro", "words"),
    [
        (3, None, ["among 3 processes", "use 1, 2, 4, 8, 16, 32, 64, 128, 256 "]),
        (4, 48, ["micro_batch 48", "whole loss groups", ": 8, 16, 32, 64:"]),
        (1, 16, ["micro_batch 16", ": 32, 64, 128, 256:"]),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_what_would(
    gpus: int, micro: int | None, words: Sequence[str]
) -> None:
    with pytest.raises(UserError) as caught:
        of(gpus=gpus, micro=micro)
    assert all(word in str(caught.value) for word in words)


def test_more_gpus_than_loss_groups_share_them() -> None:
    division = of(gpus=64).division
    assert (division.micro_batch, division.span, division.rounds) == (4, 8, 1)
    small = of(gpus=4, micro=8).division  # for less memory
    assert (small.span, small.rounds) == (4, 8)
    assert of(gpus=64, micro=32).division == division  # a share is all that there is
    assert of(gpus=8).division.span == 1


def test_storage_counts_data_checkpoints_and_networks() -> None:
    storage = of().storage
    assert storage["data set"] == 50_000 * (4 + 3 * 32 * 32)
    assert storage["checkpoints (2 kept)"] == 2 * 8 * 4e9
    assert of("imagenet-512-edm2-xs-sid").storage["data set"] == 4 * 1_281_167


def test_the_first_machine_holds_a_checkpoint_in_its_memory_and_in_a_temporary_file() -> None:
    made = of(gpus=2)
    assert made.host == {"copy of a checkpoint": 8 * 4e9, "allowance (processes)": 2 * planning.PROCESS_BYTES}
    assert made.disk["TMPDIR: a checkpoint"] == 8 * 4e9
    assert made.disk["SIDA_CACHE, with an S3 store"] == 8 * 4e9 + 4e9 + made.storage["data set"]


def test_plan_prints_what_it_counted_and_answers_by_its_status() -> None:
    said = pipeline("plan", "digits", "--json")
    assert said.returncode == 0, said.stderr
    made = json.loads(said.stdout)
    assert made["fits"] and made["gpus"] == 2
    assert made["forwards"]["A"] + made["forwards"]["B"] == pytest.approx(
        12, abs=0.7
    )  # small: the first layer, which needs no input gradient, counts
    assert made["memory_bytes"] == pytest.approx(sum(made["memory"].values()))
    text = pipeline("plan", "digits", "--gpu", "t4", "--gpus", "16").stdout
    assert "It fits:" in text and "Adam" in text
    assert "micro-batch 8 (loss groups of 32, each on 4 GPUs)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--gpu", "h1"), ["--gpu h1", "h100"]),
        (("digits", "--gpus", "0"), ["--gpus", "'0'"]),
        (("digits", "--utilization", "35"), ["--utilization", "35", "0.35"]),
        (("digits", "--network", "0"), ["--network", "'0'", "such as 50"]),
        (("digits", "--gpus", "3"), ["among 3 processes"]),
        (("digits", "--micro-batch", "33"), ["micro_batch 33", "16, 32, 64"]),
        (("digit",), ["did you mean 'digits'"]),
    ],
)
def test_a_mistake_is_one_line_with_status_2(arguments: tuple[str, ...], words: list[str]) -> None:
    said = pipeline("plan", *arguments)
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert all(word in line for word in words), line
