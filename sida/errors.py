"""The errors that users see.

::

    SidaError                 something went wrong; exit status 1
    +-- UserError             the input or the machine is not as it must be; exit status 2
    |   +-- RecipeError       a recipe does not say what it must
    |   +-- StoreUnusable     the store cannot be written or reached as configured
    |   +-- LeaseHeld         another process is making this very result
    |   +-- Refused           a foreign file holds what is not accepted
    |   +-- Corrupt           a stored file's bytes are not what its name or manifest says: to be deleted or fetched again
    +-- StoreError            the store failed
    |   +-- Unavailable       what is needed is away, and did not come back in time; exit status 75: the same again may succeed
    |   +-- NotFound          no such object
    |   +-- AlreadyExists     a conditional write lost
    +-- Fenced                another writer took over: stop without publishing
    +-- Lost                  another process of the job is gone; why, it or the launcher tells
    +-- TimedOut              it ran longer than it was allowed to

``str(error)`` is one line: what was found, where, and what to do.
"""

from __future__ import annotations

from sida.printing import one_line


class SidaError(Exception):
    """Base of all errors of this project."""

    exit_code = 1

    def __str__(self) -> str:
        """Return one line of at most 300 characters, printable and without secrets, whatever a foreign file put into a name."""
        return one_line(super().__str__())


class UserError(SidaError):
    """Error that the user can fix: input, a missing file, a full disk."""

    exit_code = 2


class RecipeError(UserError):
    """Recipe with an unknown key or a wrong value, or one that cannot be found."""


class StoreUnusable(UserError):
    """The store's address or credentials do not work on this machine."""


class LeaseHeld(UserError):
    """Another process holds the key; the message names it."""


class Refused(UserError):
    """A foreign file holds what is not accepted; nothing of it was executed."""


class Corrupt(UserError):
    """Bytes differ from the digest or size they were published with."""


class StoreError(SidaError):
    """The store failed."""


class Unavailable(StoreError):
    """A store or server is away, which passes: no connection, no such name, no answer in time, 5xx, 429."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h

    def __init__(self, message: str, what: str, reason: str) -> None:
        """Store ``what`` is away ("the store at http://..."), fit to be printed, and ``reason`` in a few words."""
        super().__init__(message)
        self.what, self.reason = what, reason

    def __reduce__(self) -> tuple[type[Unavailable], tuple[str, str, str]]:  # it may come from another process
        return type(self), (str(self), self.what, self.reason)


class NotFound(StoreError):
    """No object under this key."""


class AlreadyExists(StoreError):
    """A conditional write found the key taken."""


class Fenced(SidaError):
    """A writer with a larger fencing number took over this key."""


class Lost(SidaError):
    """Another process of this job, or their store, is gone."""


class TimedOut(SidaError):
    """The step ran longer than the profile's timeout_seconds."""
