"""What can go wrong, and who is to blame.

ProxyError        a request failed: whose side, a machine-readable reason, the status for the client, whether a retry is safe
ConfigError       one fault in the configuration: file, line, key, a sentence
ConfigErrors      all of them, raised at once
EnvironmentFault  the configuration is right but the machine says no: a port in use, an unwritable log
EnvironmentFaults several of them, raised at once
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ConfigError", "ConfigErrors", "EnvironmentFault", "EnvironmentFaults", "Exit", "ProxyError", "Retry", "Side"]


class Exit(IntEnum):
    """The daemon's exit codes."""

    OK = 0
    FAULT = 1  # the environment: a port in use, a missing user, an unwritable log
    CONFIG = 78  # EX_CONFIG of sysexits.h: the configuration is wrong; a supervisor should not restart us


class Side(Enum):
    """Who caused a failure."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    LBD = "lbd"


class Retry(Enum):
    """Whether the same request may be sent again after this failure."""

    NEVER = "never"
    UNSENT = "unsent"  # not one byte reached the upstream, or it says that it has looked at none: safe for every method
    UNSENT_HERE = "unsent_here"  # as UNSENT, but the endpoint serves others: it only had done with that connection
    REUSED_ONLY = "reused_only"  # a kept-alive connection died before any answer: safe for idempotent methods
    UNANSWERED = "unanswered"  # a new connection died before any answer, or none came: as REUSED_ONLY, but the endpoint itself is in doubt
    ANSWERED = "answered"  # with a status that is one to try again on: safe for idempotent methods
    SAID_UNDONE = "said_undone"  # with a status of gRPC of which the configuration says that it is safe for every call


class ProxyError(Exception):
    """A request that lbd must answer itself, or a connection that it must close.

    `status` is for the client (0: nobody is left to answer); `reason` is the machine-readable word that goes to the
    access log, to `lbd_rejected_total{reason}` and, when enabled, to the x-lbd-reason field; `message` is for a person.
    `retry_after` is what the client is asked to wait before it comes again, in seconds; 0 says nothing of it.
    """

    def __init__(self, side: Side, reason: str, status: int, message: str, retry: Retry = Retry.NEVER, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.side = side
        self.reason = reason
        self.status = status
        self.message = message
        self.retry = retry
        self.retry_after = retry_after

    def __repr__(self) -> str:
        return f"<ProxyError {self.side.value} {self.reason} {self.status}: {self.message}>"


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One fault: `lb.toml:14: cluster.api.balence: unknown key; did you mean "balance"?`"""

    file: str
    line: int  # 1-based; 0 when the fault has no line
    key: str  # dotted path; "" for the file as a whole
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigErrors(Exception):
    """Every fault found in the configuration, in file and line order."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors))


class EnvironmentFault(Exception):
    """The machine refuses what a correct configuration asks for; exit code 1.

    `path` is the key that asks for it, () when none does; Config.describe() puts both key and place before the sentence.
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path

    def each(self) -> tuple[EnvironmentFault, ...]:
        return (self,)


class EnvironmentFaults(EnvironmentFault):
    """Several faults, in the order in which they were met."""

    def __init__(self, faults: Sequence[EnvironmentFault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)

    def each(self) -> tuple[EnvironmentFault, ...]:
        return self.faults
