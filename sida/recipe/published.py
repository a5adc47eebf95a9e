"""Numbers and files to compare with: others' targets and generators, and what this project measured."""

from __future__ import annotations

from pydantic import model_validator

from sida.recipe.section import File, Positive, Precision, Section

PAPER = "arXiv 2410.14919"  # SiDA


class Targets(Section):
    """Numbers published for this benchmark; read by people, plan and reports, never by a step's key."""

    metric: str
    source: str
    teacher: float | None = None  # by teacher.sampler, without guidance
    teacher_source: str | None = None
    teacher_guided: float | None = None  # with classifier-free guidance
    teacher_autoguided: float | None = None
    sid: float | None = None
    sida: float | None = None  # None: not known for SiDA alone
    sid2a: float | None = None  # None: not known for SiD2A alone
    best: float | None = None  # of SiDA and SiD2A, where it is not known which of the two
    precision: Precision | None = None  # that they were distilled and scored in; None: not known

    @property
    def of_generators(self) -> bool:
        """True if the score of a generator was published, not its teacher's alone."""
        return any(score is not None for score in (self.sid, self.sida, self.sid2a, self.best))


class Expected(Section):
    """Numbers that this project measured: another run's mean scores of the same recipe lie in these ranges. Not inherited."""

    teacher: tuple[float, float]  # lowest and highest mean score of the teacher
    generator: tuple[float, float]  # lowest and highest mean score of the generator
    measured: str  # the numbers behind the ranges, when and where

    @model_validator(mode="after")
    def _ranges_go_upwards(self) -> Expected:
        for name in ("teacher", "generator"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} [{low}, {high}]: give the lower end first")
        return self


class Released(File):
    """The generator that the authors released for this run."""

    kimg: Positive  # images it has seen
    note: str | None = None
