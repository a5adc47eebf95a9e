"""Keys of a store: built and taken apart in one place."""

from __future__ import annotations

import pytest

from sida import layout
from sida.errors import UserError

KEY = "ab" * 32


def test_what_is_built_is_taken_apart_again() -> None:
    attempt = layout.Attempt("score", KEY, 12)
    assert layout.attempt_at(layout.manifest_key(*attempt)) == attempt
    assert layout.manifest_key_in(f"s3://bucket/steps/{layout.manifest_key(*attempt)}") == layout.manifest_key(*attempt)
    for key in (
        layout.manifest_key(*attempt),
        layout.failure_key("run-1", 3),
        layout.object_key(KEY, "net.safetensors"),
    ):
        for store in ("s3://bucket/steps", "s3://bucket", "file:///a b/%41", "/a"):
            assert layout.place_of(f"{store}/{key}") == (store, key)
        assert layout.place_of(key) == layout.place_of(f"/a/{key}/b") == ("", "")
    held = layout.step_folder("score", KEY)
    assert layout.lease_at(layout.lease_key(held, 3)) == (held, 3)
    job = layout.job_folder(*attempt)
    assert layout.job_file_at(f"{job}/{layout.checkpoint_name(5, 2)}") == (attempt, layout.checkpoint_name(5, 2))
    part = layout.checkpoint_part_name(5, 2, 3)
    assert layout.checkpoint_part_at(part) == (5, 2, 3) and layout.checkpoint_at(part) is None
    assert layout.checkpoint_part_at(layout.checkpoint_name(5, 2)) is None
    assert layout.step_of_job(f"{job}/spec.json") == "score"
    assert layout.call_at(layout.call_key("run-1", "score.item")) == ("run-1", "score.item")
    assert layout.run_at(layout.log_key("run-1", "score")) == "run-1"
    assert layout.digest_at(layout.object_key(KEY, "net.safetensors")) == KEY


@pytest.mark.parametrize(
    "key", ["steps/score/ab/1.json", layout.latest_key(layout.step_folder("score", KEY)), "gc", ""]
)
def test_what_is_no_attempt_is_not_taken_for_one(key: str) -> None:
    assert layout.attempt_at(key) is None and layout.job_file_at(key) is None and layout.call_at(key) is None


def test_a_run_cannot_name_the_key_of_another_place() -> None:
    for run in ("../steps", "a/b", ""):
        for key in (layout.run_end_key, layout.cancel_key, layout.calls_folder):
            with pytest.raises(UserError, match="not a run's id"):
                key(run)
