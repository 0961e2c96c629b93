"""A suite: what is evaluated, on what, and at which budget; one YAML file.

Loading builds everything once, so that a suite that loads has no wrong name, key or value left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from bench.config.strict_yaml import parse_yaml
from bench.core.bounds import Count
from bench.core.digest import canonical_json, digest_of
from bench.core.errors import UsageError, did_you_mean, from_pydantic, shown, unknown
from bench.core.files import bounded, expanded, is_folder
from bench.core.json_files import read_object
from bench.core.spec import Spec
from bench.interfaces import registry
from bench.model.pipeline.inspect import local_folder, looks_local

if TYPE_CHECKING:
    from bench.interfaces import Attack, Concept, Erasure, Judge, Metric
    from bench.model.sampler import Sampler

__all__ = ["CONTROLS", "Entry", "Suite", "Utility", "load_suite", "read_concepts", "suite_names"]

SUITES: Final = Path(__file__).parents[1] / "suites"
CONTROLS: Final[dict[str, tuple[str, ...]]] = {
    "methods": ("none", "destroyed"),
    "attacks": ("prompts", "random_tokens", "seed_search"),
}
MAX_SUITE_BYTES: Final = 1_000_000
MAX_CONCEPTS_BYTES: Final = 8_000_000
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")

AnySpec = TypeVar("AnySpec", bound=Spec)


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
Code = Literal["installed", "named"]
"""Whose code a suite may run: what is installed here, or also what it names by ``module:Class``."""
Entries = Annotated[tuple[Entry, ...], Field(min_length=1, max_length=1000)]
Concepts = Annotated[
    tuple[ConceptEntry, ...], Field(min_length=1, max_length=10_000), BeforeValidator(_listed)
]
Together = Annotated[int, Field(ge=1, le=10_000)]


class Utility(BaseModel):
    """How many prompts measure what an edit cost.

    Attributes:
        neighbours: Prompts that ask for neighbours of the erased concept.
        others: Prompts that ask for anything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    neighbours: int = Field(default=24, ge=0, le=10_000)
    others: int = Field(default=48, ge=0, le=10_000)


class Suite(BaseModel):
    """What is evaluated: every method and concept against every attack.

    Attributes:
        name: Of the suite.
        base: ``miniature``, a local folder, or a hub id.
        revision: The commit of a hub id.
        dtype: Precision of the base.
        concepts: Names of the base's concepts, or fields of :class:`bench.interfaces.Concept`;
            ``("all",)`` is every one of them.
        concepts_file: Concepts in JSON; by default ``concepts.json`` in the folder of the base.
        sampler: Fields of :class:`bench.model.sampler.Sampler`.
        methods: Entries of the registry; the controls are among them.
        attacks: Entries of the registry; the controls are among them.
        judges: Entries of the registry; the first is the judge of record.
        surrogate: The attacker's own judge, which is none of the judges.
        metrics: Entries of the registry.
        goals: Prompts a prompt set.
        seeds: Held-out image seeds a candidate.
        utility: Prompts that measure the cost.
        repeats: Independent edits.
        seed: Of all random streams.
        keep_images: Pictures kept a cell; they change no number.
        together: Concepts erased together; several numbers: each of them, so that a table shows what
            more concepts cost.
        transfer: Names of attacks; what they find on one method is tried on every other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)
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
    goals: Count = 24
    seeds: Count = 1
    utility: Utility = Field(default_factory=Utility)
    repeats: int = Field(1, ge=1, le=1000)
    seed: int = Field(0, ge=0, lt=2**63)
    keep_images: int = Field(8, ge=0, le=10_000)
    together: Together | Annotated[tuple[Together, ...], Field(min_length=1, max_length=100)] = 1
    transfer: Annotated[tuple[str, ...], Field(max_length=1000), BeforeValidator(_names)] = ()

    def method_specs(self) -> tuple[Erasure, ...]:
        """The methods."""
        return cast("tuple[Erasure, ...]", self._methods)

    def attack_specs(self) -> tuple[Attack, ...]:
        """The attacks."""
        return cast("tuple[Attack, ...]", self._attacks)

    def judge_specs(self) -> tuple[Judge, ...]:
        """The judges; the first is the judge of record."""
        return cast("tuple[Judge, ...]", self._built("judge", "judges"))

    def metric_specs(self) -> tuple[Metric, ...]:
        """The metrics."""
        return cast("tuple[Metric, ...]", self._built("metric", "metrics"))

    def transfer_specs(self) -> tuple[Attack, ...]:
        """The attacks whose candidates are tried on every other method, in the order of ``attacks``."""
        attacks = self.attack_specs()
        known = {name for a in attacks for name in (a.name, a.label)}
        for index, name in enumerate(self.transfer):
            if name not in known:
                raise UsageError(unknown("attack", name, known), at=("transfer", index))
        return tuple(a for a in attacks if {a.name, a.label} & set(self.transfer))

    def surrogate_spec(self) -> Judge:
        """The attacker's own judge."""
        with _below("surrogate"):
            return cast("Judge", registry.build("judge", self.surrogate))

    def sampler_spec(self) -> Sampler:
        """The sampler."""
        from bench.model.sampler import Sampler

        with _below("sampler"):
            return _made(Sampler, self.sampler)

    def concept_specs(self) -> tuple[Concept, ...]:
        """What is erased."""
        return self._concepts

    def known_concepts(self) -> dict[str, Concept]:
        """The concepts of ``concepts_file``, or of the base's folder, by name; maybe none.

        They are read once: what a plan holds is what the suite was checked with.
        """
        return dict(self._known)

    def group_sizes(self) -> tuple[int, ...]:
        """How many concepts are erased together, one or more numbers."""
        return self.together if isinstance(self.together, tuple) else (self.together,)

    def with_(self, **changes: Any) -> Self:
        """The suite with other values, checked as :func:`load_suite` does.

        Raises:
            UsageError: a key or a value does not suit a suite.
        """
        return self._checked({**self.model_dump(), **changes})

    def identity(self, attacks: Sequence[Attack] | None = None) -> dict[str, Any]:
        """What the digest covers: what is built, not how the file spells it.

        Args:
            attacks: The suite's own, where a plan holds them: with the content of their files.
        """
        attacks = self.attack_specs() if attacks is None else attacks
        moving = {a.label for a in self.transfer_specs()}
        same = (
            "name",
            "base",
            "revision",
            "dtype",
            "goals",
            "seeds",
            "repeats",
            "seed",
            "together",
        )
        return {
            "kind": "suite",
            **{key: getattr(self, key) for key in same},
            "utility": self.utility.model_dump(),
            "concepts": [concept.identity() for concept in self.concept_specs()],
            "known_concepts": {name: c.digest for name, c in self.known_concepts().items()},
            "sampler": self.sampler_spec().identity(),
            "methods": [spec.identity() for spec in self.method_specs()],
            "attacks": [spec.identity() for spec in attacks],
            "judges": [spec.identity() for spec in self.judge_specs()],
            "surrogate": self.surrogate_spec().identity(),
            "metrics": [spec.identity() for spec in self.metric_specs()],
            # Only where there is any: suites from before it existed are still the same suites.
            **(
                {"transfer": [a.digest for a in attacks if a.label in moving]}
                if self.transfer
                else {}
            ),
        }

    @property
    def digest(self) -> str:
        """sha256 of :meth:`identity`, 64 hexadecimal digits."""
        return digest_of(self.identity())

    @classmethod
    def _checked(cls, data: Mapping[str, Any]) -> Self:
        """Validates everything, which builds everything once."""
        try:
            suite = cls.model_validate_json(canonical_json(data))
        except ValidationError as error:
            raise from_pydantic(error, cls) from error
        except TypeError as error:
            raise UsageError(str(error).removeprefix("$.").removeprefix("$: ")) from error
        suite._check_base()
        built = {"methods": suite.method_specs(), "attacks": suite.attack_specs()}
        for key, controls in CONTROLS.items():
            if missing := [c for c in controls if c not in {spec.name for spec in built[key]}]:
                wanted, lacking = " and ".join(controls), ", ".join(missing)
                message = f"expected the controls {wanted} in every suite; add {lacking}"
                raise UsageError(message, at=(key,))
        surrogate = suite.surrogate_spec()
        for index, judge in enumerate(suite.judge_specs()):
            if judge.network == surrogate.network:
                message = f"expected a judge that does not decide, got {shown(suite.surrogate)}"
                same = f"it looks through the network of judges[{index}], {judge.label}"
                raise UsageError(f"{message}, which is among the judges: {same}", at=("surrogate",))
        suite.transfer_specs()
        suite.metric_specs()
        suite.sampler_spec()
        if (most := max(sizes := suite.group_sizes())) > (count := len(suite.concept_specs())):
            message = f"expected at most the {count} of concepts, got {most}"
            raise UsageError(message, at=("together",))
        if len(sizes) > 1 and (odd := [n for n in sizes if count % n]):
            message = f"expected numbers that divide the {count} of concepts, got {odd[0]}"
            raise UsageError(message, at=("together",))
        if len(set(sizes)) < len(sizes):
            message = f"expected each number once, got {shown(list(sizes))}"
            raise UsageError(message, at=("together",))
        return suite

    @cached_property
    def _concepts(self) -> tuple[Concept, ...]:
        from bench.interfaces import Concept

        known = self._known
        if self.concepts == ("all",) and known:
            with _below("concepts", 0):
                return tuple(_allowed(concept) for concept in known.values())
        found: dict[str, Concept] = {}
        for index, entry in enumerate(self.concepts):
            with _below("concepts", index):
                if isinstance(entry, str) and entry not in known:
                    raise UsageError(unknown("concept", entry, known) + self._no_concepts(known))
                made = known[entry] if isinstance(entry, str) else _made(Concept, entry)
                concept = _allowed(made)
                if concept.text in found:
                    raise UsageError(f"expected each concept once, got {shown(concept.text)} twice")
                found[concept.text] = concept
        return tuple(found.values())

    @cached_property
    def _known(self) -> dict[str, Concept]:
        path = self._concepts_path()
        if path is None or not (self.concepts_file or path.exists()):
            return {}
        with _below("concepts_file" if self.concepts_file else "base"):
            return read_concepts(path)

    @cached_property
    def _methods(self) -> tuple[Spec, ...]:
        return self._built("method", "methods")

    @cached_property
    def _attacks(self) -> tuple[Spec, ...]:
        return self._built("attack", "attacks")

    def _built(self, kind: registry.Kind, key: str) -> tuple[Spec, ...]:
        built: dict[str, Spec] = {}
        for index, entry in enumerate(getattr(self, key)):
            with _below(key, index):
                spec = registry.build(kind, entry)
                if spec.label in built:
                    twin = list(built).index(spec.label)
                    message = (
                        f"is {shown(spec.label)}, as {key}[{twin}] is; change a field or drop one"
                    )
                    raise UsageError(message)
                built[spec.label] = spec
        return tuple(built.values())

    def _check_base(self) -> None:
        with _below("base"):
            local = local_folder(self.base) is not None
        if not local and looks_local(self.base):
            message = f"expected a folder, got {shown(self.base)}: no such folder"
            raise UsageError(message, at=("base",))
        if not local and not _HUB_ID.fullmatch(self.base):
            meant = did_you_mean(self.base, ["miniature"])
            expected = "expected 'miniature', a folder, or a hub id (owner/name)"
            raise UsageError(f"{expected}, got {shown(self.base)}{meant}", at=("base",))
        if local and self.revision is not None:
            message = f"expected none, as base {self.base} is local, got {shown(self.revision)}"
            raise UsageError(message, at=("revision",))
        if not local and self.revision is None:
            message = f"expected a revision for hub id {self.base}, got none; name a commit"
            raise UsageError(message, at=("base",))
        if not local and not _COMMIT.fullmatch(self.revision or ""):
            message = f"expected a commit of 40 hexadecimal digits, got {shown(self.revision)}"
            raise UsageError(message, at=("revision",))

    def _concepts_path(self) -> Path | None:
        if self.concepts_file is not None:
            return Path(self.concepts_file)
        if self.base == "miniature":
            from bench.core.shipped import model_folder

            return model_folder() / "concepts.json"
        return Path(self.base) / "concepts.json" if is_folder(self.base) else None

    def _no_concepts(self, known: Mapping[str, Concept]) -> str:
        if known:
            return ""
        where = f"no {self._concepts_path()}" if self._concepts_path() else "a hub id brings none"
        return f" ({where}); name a concepts_file"


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(source: str | Path, *, code: Code = "installed") -> Suite:
    """Reads and checks a suite.

    Args:
        source: A YAML file, or the name of a suite of ours. Relative paths in the file are seen
            from its folder.
        code: ``named`` lets the file name ``module:Class``, whose module is imported: then the file is
            code, to be trusted as such. ``installed`` refuses that before anything is imported.

    Raises:
        UsageError: ``FILE:LINE: key KEY: expected ..., got ...``.
    """
    path = _find(source)
    text = _decoded(path, bounded(path, MAX_SUITE_BYTES))
    data, lines = parse_yaml(path, text)
    try:
        if not isinstance(data, dict):
            raise UsageError(f"expected the keys of a suite, got {shown(data)}")
        if code == "installed":
            _refuse_code(data)
        return Suite._checked(_resolved(data, path.parent))
    except UsageError as error:
        at = error.at
        while at not in lines:
            at = at[:-1]
        key = "key " if error.at else ""
        raise UsageError(f"{path}:{lines[at]}: {key}{error}") from error


@contextmanager
def _below(*path: str | int) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise error.below(*path) from error


def _made(cls: type[AnySpec], fields: Mapping[str, Any]) -> AnySpec:
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        raise from_pydantic(error, cls) from error


def _allowed(concept: Concept) -> Concept:
    from bench.interfaces.minors import about_minors

    if about_minors(concept.text):
        raise UsageError(f"concepts about minors are refused, got {shown(concept.text)}")
    return concept


def read_concepts(path: Path) -> dict[str, Concept]:
    """The concepts of a JSON file, by name.

    Raises:
        UsageError: the file cannot be read, or does not hold concepts.
    """
    from bench.interfaces import Concept

    items = read_object(path, MAX_CONCEPTS_BYTES)
    if not all(isinstance(item, dict) for item in items.values()):
        raise UsageError(f"{path}: expected an object of name: fields of a concept")
    concepts = {}
    for name, fields in items.items():
        try:
            concepts[name] = _made(Concept, cast("dict[str, Any]", fields))
        except UsageError as error:
            raise UsageError(f"{path}: {error.below(name)}") from error
    return concepts


def _refuse_code(data: Mapping[str, Any]) -> None:
    """Refuses entries that name ``module:Class``: to build them would run whatever the module holds."""
    for key in ("methods", "attacks", "judges", "surrogate", "metrics"):
        entries = data.get(key)
        listed = entries if isinstance(entries, list) else [entries]
        for index, entry in enumerate(listed):
            names = entry if isinstance(entry, dict) else [entry]
            for name in names:
                if isinstance(name, str) and ":" in name:
                    message = f"{shown(name)} is code that the suite would import and run"
                    raise UsageError(
                        f"{message}; if you trust it, allow it with --allow-code",
                        at=(key, index) if isinstance(entries, list) else (key,),
                    )


def _resolved(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data with its paths seen from ``folder``."""
    data = dict(data)
    for key in ("base", "concepts_file"):
        if isinstance(value := data.get(key), str) and (key, value) != ("base", "miniature"):
            with _below(key):
                path = (folder / expanded(value)).absolute()
            if key == "concepts_file" or is_folder(path):
                data[key] = str(path)
    return data


def _find(source: str | Path) -> Path:
    path = Path(source)
    if isinstance(source, Path) or path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return path
    if source not in suite_names():
        raise UsageError(f"{unknown('suite', source, suite_names())}; or give a .yaml file")
    return SUITES / f"{source}.yaml"


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"expected UTF-8, got byte 0x{data[error.start]:02x}"
        raise UsageError(f"{path}:{line}: {message}") from error
