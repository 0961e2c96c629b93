"""The messages between a driver and its workers: plain JSON, whatever carries it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from bench.run.loading import NOTHING_SAID, Runtime

__all__ = ["Job", "Reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker has to know, as plain JSON.

    Attributes:
        suite: The fields of the suite's file.
        only: Patterns of ``--only``.
        limit: That of ``--limit``.
        cells: The digest of the plan, as :func:`same_plan` gives it. Another version of the code, or
            of a file that the suite names, is found by it before anything is computed.
        store: The folder of the run's store.
        token: A file that is in it as long as the run lasts: who sees it sees the store.
        runtime: How the base is computed.
        threads: Of the processor; 0: as many as there are.
    """

    suite: dict[str, Any]
    only: tuple[str, ...] = ()
    limit: int | None = None
    cells: str = ""
    store: str = ""
    token: str = ""
    runtime: Runtime = NOTHING_SAID
    threads: int = 1

    def as_json(self) -> str:
        """For the way."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """From :meth:`as_json`."""
        fields = json.loads(text)
        told = {"only": tuple(fields["only"]), "runtime": Runtime(**fields["runtime"])}
        return cls(**{**fields, **told})


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a worker; parcels aside, it is plain JSON.

    Attributes:
        fate: ``ready``, ``computed``, ``found``, ``failed``, ``claimed``, ``refused``, ``unfit`` or
            ``broken``. ``refused`` brings a line for the user, who has to change something.
            ``unfit`` is the worker's place; ``broken``: the worker cannot begin.
        message: Of an error, in one line.
        seconds: That the cell took.
        model_seconds: Of them, inside models.
        memory: The error says that memory ran out: another worker may have enough.
        damaged: Entries that were found damaged and set aside.
        apart: Of ``ready``: the worker does not see the run's store.
        where: Host and process.
        number: The system's of an ``unfit`` place.
        check: Of ``ready``: what the look at the base saw.
    """

    fate: str
    message: str = ""
    seconds: float = 0.0
    model_seconds: float = 0.0
    memory: bool = False
    damaged: tuple[str, ...] = ()
    apart: bool = False
    where: str = ""
    number: int = 0
    check: dict[str, float] | None = None

    def as_json(self) -> str:
        """For the way."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Reply:
        """From :meth:`as_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "damaged": tuple(fields["damaged"])})
