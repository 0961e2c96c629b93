"""A suite as its file spells it: a frozen record of names and numbers, of which nothing is built yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from bench.core.bounds import Count
from bench.core.digest import canonical_json
from bench.core.errors import UsageError, from_pydantic, shown
from bench.interfaces.prompt_source import Goals, Picked, PromptSource

__all__ = ["ConceptEntry", "Entry", "SuiteFile", "Utility"]


def _entry(value: object) -> object:
    if isinstance(value, str) or (isinstance(value, Mapping) and len(value) == 1):
        return value
    raise ValueError(f"expected a name, or one name with its fields, got {shown(value)}")


def _concept(value: object) -> object:
    if isinstance(value, str | Mapping):
        return value
    raise ValueError(f"expected the name of a concept, or its fields, got {shown(value)}")


def _listed(value: object) -> object:
    if value == "all":
        return ("all",)
    return tuple(value) if isinstance(value, list) else value


def _names(value: object) -> object:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError(f"expected a list of attacks' names, got {shown(value)}")


Entry = Annotated[str | Mapping[str, Mapping[str, Any]], PlainValidator(_entry)]
ConceptEntry = Annotated[str | Mapping[str, Any], PlainValidator(_concept)]
Entries = Annotated[tuple[Entry, ...], Field(min_length=1, max_length=1000)]
Concepts = Annotated[
    tuple[ConceptEntry, ...], Field(min_length=1, max_length=10_000), BeforeValidator(_listed)
]
Together = Annotated[int, Field(ge=1, le=10_000)]


class Utility(Picked):
    """The prompts that measure what an edit cost.

    Attributes:
        neighbours: How many ask for neighbours of the erased concept.
        others: How many ask for anything else.
        file: More of them, that name no concept: captions. The other fields say which of its rows.
    """

    neighbours: int = Field(default=24, ge=0, le=10_000)
    others: int = Field(default=48, ge=0, le=10_000)
    file: str | None = Field(None, min_length=1)

    @property
    def captions(self) -> PromptSource | None:
        """The file with what is asked of it, if there is one."""
        if self.file is None:
            return None
        fields = {name: getattr(self, name) for name in Picked.model_fields}
        return PromptSource(file=self.file, **fields)


class SuiteFile(BaseModel):
    """The keys of a suite file.

    Attributes:
        name: Of the suite.
        protocol: The version of the question that it asks, ``name@1``: runs of one version compare. It is in no
            digest; the shipped ones are held to what they ask (``docs/protocols.md``).
        base: ``miniature``, a local folder, or a hub id.
        revision: The commit of a hub id.
        dtype: Precision of the base.
        concepts: Names of the base's concepts, or fields of :class:`bench.interfaces.Concept`;
            ``("all",)`` is every one of them.
        concepts_file: Concepts in JSON, or a list of names (``.txt``); by default ``concepts.json`` in the
            folder of the base.
        sampler: Fields of :class:`bench.model.sampler.Sampler`.
        methods: Entries of the registry; the controls are among them.
        attacks: Entries of the registry; the controls are among them.
        judges: Entries of the registry; the first is the judge of record.
        surrogate: Guides the attacks; it looks through another network than any of the judges.
        metrics: Entries of the registry.
        goals: Prompts per prompt set; or the file whose rows are the goals of every attack.
        seeds: Held-out image seeds per candidate.
        utility: Prompts that measure the cost.
        repeats: Independent edits.
        seed: Of all random streams.
        keep_images: Thumbnails per cell; they change no number.
        images: How long images are kept in the store: ``keep`` for ever, or ``thumbnails`` until every
            judge and metric of the suite has seen them. It changes no number.
        together: Concepts erased together; several numbers: each of them, so that a table shows what
            more concepts cost.
        transfer: Names of attacks; what they find on one method is tried on every other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)
    protocol: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,99}@[1-9][0-9]{0,3}$")
    base: str = "miniature"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    concepts: Concepts
    concepts_file: str | None = None
    sampler: Mapping[str, Any] = Field(default_factory=dict)
    methods: Entries
    attacks: Entries
    judges: Entries
    surrogate: Entry
    metrics: Entries
    goals: Goals = 24
    seeds: Count = 1
    utility: Utility = Field(default_factory=Utility)
    repeats: int = Field(1, ge=1, le=1000)
    seed: int = Field(0, ge=0, lt=2**63)
    keep_images: int = Field(8, ge=0, le=10_000)
    images: Literal["keep", "thumbnails"] = "keep"
    together: Together | Annotated[tuple[Together, ...], Field(min_length=1, max_length=100)] = 1
    transfer: Annotated[tuple[str, ...], Field(max_length=1000), BeforeValidator(_names)] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The record of plain values, read as strictly as JSON.

        Raises:
            UsageError: a key or a value does not suit a suite.
        """
        try:
            return cls.model_validate_json(canonical_json(fields))
        except ValidationError as error:
            raise from_pydantic(error, cls) from error
        except TypeError as error:
            raise UsageError(str(error).removeprefix("$.").removeprefix("$: ")) from error

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """How many concepts are erased together, one or more numbers."""
        return self.together if isinstance(self.together, tuple) else (self.together,)
