"""An entry: the typed card of one method on one protocol, as it is stored and published.

python -m bench.leaderboard.entry       prints results/leaderboard/schema.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue

from bench.leaderboard.fields import Card, Commit, Count, Line, Number, Sha
from bench.leaderboard.lines import Measured
from bench.leaderboard.paper import Paper

__all__ = [
    "VERSION",
    "Entry",
    "Method",
    "Protocol",
    "Published",
    "Run",
    "as_schema",
]

VERSION: Final = 1
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]
_File = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=200)]


class Protocol(Card):
    """The question that all entries of a page answer.

    Attributes:
        suite: The shipped suite that asks it.
        version: The first 12 digits of ``digest``.
        digest: Of everything that the suite fixes but its methods, and of the base.
        base: Digest of the unedited model.
        judge: The judge of record.
    """

    suite: _Name
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    digest: Sha
    base: Sha
    judge: Line

    @property
    def name(self) -> str:
        """The suite and the version: ``mini-quick@0123456789ab``."""
        return f"{self.suite}@{self.version}"


class Method(Card):
    """The method.

    Attributes:
        name: Its line in the tables.
        entry: How a suite file spells it.
        digest: Of its identity.
        slots: What it fills of a model.
        control: It is a reference that nobody ranks.
        bypassed_by: What makes it void by construction.
        paper: Who made it.
    """

    name: Annotated[Line, Field(min_length=1)]
    entry: JsonValue
    digest: Sha
    slots: tuple[Line, ...]
    control: bool
    bypassed_by: tuple[Line, ...]
    paper: Paper


class Run(Card):
    """The published run behind the numbers.

    Attributes:
        folder: Its name in the folder that holds the leaderboard.
        suite: The suite that was run.
        suite_digest: Of that suite, methods and all.
        commit: Of the code that computed it.
        seed: Of all random streams.
        files: The sha256 of each file that numbers and pictures come from.
        rows: Of those of this method in ``trials``, ``utility`` and ``edits``, how many.
    """

    folder: _File
    suite: _Name
    suite_digest: Sha
    commit: Commit
    seed: Count
    files: Mapping[_File, Sha]
    rows: Mapping[Literal["trials", "utility", "edits"], Count]


class Published(Card):
    """One number that somebody published, on another base, with another judge: it compares with none of ours.

    Attributes:
        source: The paper or repository.
        where: The table or figure in it.
        base: The base model, as the source says.
        concept: What was erased.
        variant: What the source calls the method.
        attack: The attack, or the prompts.
        access: How adaptive the attack is, as this project classified it.
        n: Prompts or images; ``None`` where the source does not say.
        judge: The detector or classifier.
        threshold: Of the judge, as the source says.
        metric: What was counted.
        value: The number, in ``unit``.
        unit: As printed.
        evidence: How it was read.
        note: Caveats.
    """

    source: Annotated[Line, Field(min_length=1)]
    where: Line
    base: Line
    concept: Line
    variant: Line
    attack: Line
    access: Line
    n: Count | None
    judge: Annotated[Line, Field(min_length=1)]
    threshold: Line
    metric: Line
    value: Number
    unit: Line
    evidence: Line
    note: Line


class Entry(Card):
    """The card of one method on one protocol.

    Attributes:
        version: Of this format.
        protocol: What was asked.
        method: What answered.
        run: The published rows.
        measured: The numbers from these rows.
        unreliable: Why the worst case should not be taken at face value; ``None``: no flag says so.
        reported: What the method's own paper reports.
        external: What others measured of it elsewhere.
    """

    version: Literal[1]
    protocol: Protocol
    method: Method
    run: Run
    measured: Measured
    unreliable: Line | None
    reported: tuple[Published, ...]
    external: tuple[Published, ...]

    def as_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        return plain

    def text(self) -> str:
        """The file of the entry: the same entry gives the same bytes."""
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_schema() -> str:
    """The JSON schema of an entry, as ``results/leaderboard/schema.json`` has it."""
    return json.dumps(Entry.model_json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_schema())
