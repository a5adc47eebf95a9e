"""How work stands in Kueue's queues, from Workloads as Kueue makes them."""

from __future__ import annotations

from typing import Any

import pytest

from sida.launch.pod_state import Waiting
from sida.launch.queue import place_of, waiting_in_queue, workload_of
from sida.launch.words import remedy, waiting_in_words
from tests.launch.kueue import PENDING, admitted, pending, preempted, workload

OTHERS = [admitted("a"), pending("b", made=1), pending("c", made=9, priority=5), pending("d", queue="cpu")]


def waiting(*own: dict[str, Any]) -> Waiting:
    return waiting_in_queue("sida-distill-1", "own", "gpu", [*OTHERS, *own])


@pytest.mark.parametrize(
    ("made", "priority", "place"),
    [(5, 0, 3), (0, 0, 2), (9, 5, 2), (10, 6, 1), (59, -1, 3)],
    ids=["newer", "older", "same priority", "higher priority", "lower priority"],
)
def test_the_place_is_by_priority_then_by_age_among_those_of_the_queue(made: int, priority: int, place: int) -> None:
    own = pending("own", made=made, priority=priority)
    assert place_of(own, [*OTHERS, own]) == (place, 3)


def test_who_was_evicted_for_a_failed_check_waits_behind_those_that_came_since() -> None:
    own = workload(
        "own",
        ("QuotaReserved", "False", "Pending", ""),
        ("Evicted", "True", "AdmissionCheck", "no node for it"),
        made=0,
    )
    assert place_of(own, [*OTHERS, own]) == (3, 3)


def test_who_waits_for_quota_says_its_place_and_why() -> None:
    found = waiting(pending("own", made=5))
    assert found == Waiting("queue", "sida-distill-1", f"place 3 of 3 in gpu: {PENDING}")
    assert found.passes


def test_who_was_preempted_says_for_what_without_uids() -> None:
    found = waiting(preempted("own"))
    assert waiting_in_words(found) == (
        "it had to give its place back: Preempted to accommodate a workload due to prioritization in the ClusterQueue; "
        "place 2 of 3 in gpu (sida-distill-1)"
    )
    assert found.passes
    assert "from its checkpoint" in remedy(found)


@pytest.mark.parametrize(
    "own",
    [
        pending("own", "LocalQueue gpu doesn't exist", "Inadmissible"),
        pending("own", "insufficient quota for cpu in flavor default, request > maximum capacity (1 > 250m)"),
        pending("own", "too much", "ExceedsMaxQuota"),
        workload("own", ("Evicted", "True", "Deactivated", "The workload is deactivated"), active=False),
    ],
)
def test_what_no_queue_will_ever_let_in_does_not_pass_by_itself(own: dict[str, Any]) -> None:
    found = waiting(own)
    assert (found.kind, found.passes) == ("unqueued", False)
    assert waiting_in_words(found).startswith("its queue will not take it: ")


def test_what_has_quota_but_is_not_admitted_names_the_check() -> None:
    own = workload("own", ("QuotaReserved", "True", "QuotaReserved", ""))
    own["status"]["admissionChecks"] = [{"name": "prov", "state": "Pending", "message": "no node yet"}]
    assert waiting(own).detail == "gpu has room for it: waiting for the check prov (Pending: no node yet)"
    assert waiting(admitted("own")).detail == "admitted from gpu: it begins now"


def test_what_kueue_has_not_seen_is_said_to_be_so() -> None:
    assert workload_of("own", OTHERS) is None
    assert waiting().detail == "Kueue has not put it into gpu yet"
