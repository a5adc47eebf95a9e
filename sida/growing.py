"""Models that have gained fields since the first of them were written and their digests recorded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class Growing(BaseModel):
    """Model that is written as before, as long as it says no more than before.

    ``LATER``: fields that are left out while they have their default. So what was written keeps its bytes and digests, and older
    code reads whatever does not use them. ``GONE``: fields that are no more, as they were always written.
    """

    LATER: ClassVar[tuple[str, ...]] = ()
    GONE: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        defaults = {name: type(self).model_fields[name].default for name in self.LATER}
        said = {
            name: value
            for name, value in fields.items()
            if name not in defaults or getattr(self, name) != defaults[name]
        }
        return {**self.GONE, **said}
