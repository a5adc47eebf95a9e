"""What the sections of a recipe share: how they are read, and the bounds of their numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sida.growing import Growing

# Upper bounds are far beyond any use: they refuse what could not be built, counted or planned before anybody tries.
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, le=2**48)]
Batch = Annotated[int, Field(ge=1, le=2**24)]  # images, or processes, at once
Size = Annotated[int, Field(ge=1, le=8192)]  # pixels along an edge
Width = Annotated[int, Field(ge=1, le=16384)]  # of layers, or features
Rate = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Section(Growing):
    """A frozen section of a recipe: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Section):
    """A file to fetch; without a digest, that of its first use counts."""

    address: str
    sha256: Sha256 | None = None
