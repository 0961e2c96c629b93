"""Frozen, validated, hashable records: a plug-in's configuration, its registry entry and the object are one thing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from bench.core.characters import plain
from bench.core.digest import digest_of, file_sha256
from bench.core.errors import unknown

__all__ = [
    "PathText",
    "Spec",
    "added",
    "applied",
    "content",
    "name_of",
    "runtime",
    "weights_digest",
    "with_name",
]

_PATH: Final = "path"
PathText: TypeAlias = Annotated[str, _PATH]
"""Of a field that names a file or a folder: labels tell its name alone, for the rest is somebody's own folders."""


def runtime(default: Any, **kwargs: Any) -> Any:
    """A field that may change speed but not numbers: recorded, never hashed."""
    return Field(default, json_schema_extra={"runtime": True}, **kwargs)


def applied(default: Any, **kwargs: Any) -> Any:
    """A field that is applied to stored numbers when tables are made: recorded, never hashed.

    Another value of it computes nothing again. Where a computation does depend on it, as an attack
    does on the threshold of its surrogate, the computation's own digest has to say so.
    """
    return Field(default, json_schema_extra={"applied": True}, **kwargs)


def added(default: Any, **kwargs: Any) -> Any:
    """A field that came after results were stored: hashed unless it holds its default.

    The default stands for the way of the code before the field, so what was stored then keeps its name.
    """
    return Field(default, json_schema_extra={"added": True}, **kwargs)


class Spec(BaseModel):
    """Base of every method, attack, judge, metric and suite part.

    Every field is *identity* (it changes numbers and is hashed) unless it is declared with
    :func:`runtime` or :func:`applied`. One that is declared with :func:`added` is at another value than
    its default. No number is NaN or infinite, and no text steers a terminal: what a spec holds
    stands in tables. The bounds of numbers are the fields' own (:mod:`bench.core.bounds`).

    Attributes:
        kind: The plug point: ``method``, ``attack``, ``judge``, ``metric``, ...
        name: The name in suites and tables.
        needs: Fields that only a user can fill: without them the spec can be built, but does nothing.
            Suites and the Python interface refuse it.
        quick: Fields that make it so small that a contract test takes a second: few images, steps and
            rounds. No other preset's numbers; nobody but tests and first tries uses it.
        revision: Raised when the algorithm changes its results; part of the digest.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False
    )

    kind: ClassVar[str] = "spec"
    name: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    quick: ClassVar[dict[str, Any]] = {}

    _preset: str = PrivateAttr("")
    _called: str = PrivateAttr("")

    def __eq__(self, other: object) -> bool:
        """Whether class and fields are the same, whatever the two are called."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @field_validator("*")
    @classmethod
    def _plain_text(cls, value: object) -> object:
        for text in _texts(value):
            plain(text)
        return value

    @classmethod
    def preset(cls, preset: str, /, **overrides: Any) -> Self:
        """The spec with the published constants of ``preset``; ``overrides`` win.

        Raises:
            ValueError: there is no such preset.
        """
        if preset not in cls.presets:
            known = ", ".join(sorted(cls.presets)) or "none"
            raise ValueError(f"{cls.name} has no preset {preset!r}; it has: {known}")
        spec = cls(**{**cls.presets[preset], **overrides})
        spec._preset = preset
        return spec

    def called(self, name: str) -> Self:
        """The same spec under a name of its own: tables show it in place of the label."""
        spec = self.model_copy()
        spec._called = name
        return spec

    def identity(self) -> dict[str, Any]:
        """The value that is hashed: kind, name, revision, the identity fields, the content of :meth:`files`."""
        fields = self.model_dump(mode="json")
        for field, info in type(self).model_fields.items():
            unhashed = self._marked(field, "runtime") or self._marked(field, "applied")
            usual = info.get_default(call_default_factory=True)
            if unhashed or (self._marked(field, "added") and getattr(self, field) == usual):
                del fields[field]
        about = {"kind": self.kind, "name": self.name, "revision": self.revision, "fields": fields}
        return about | ({"files": [content(p) for p in files]} if (files := self.files()) else {})

    def applied(self) -> dict[str, Any]:
        """The fields that are declared with :func:`applied`: they decide tables, and no stored number."""
        fields = self.model_dump(mode="json")
        return {name: value for name, value in fields.items() if self._marked(name, "applied")}

    def files(self) -> tuple[Path, ...]:
        """Files that decide the results beside the fields, such as weights that a field names."""
        return ()

    def check_base(self, folder: Path | None) -> None:
        """Refuses a base model that it does not suit, before anything is computed.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.

        Raises:
            UsageError: in one line, with the field to change.
        """

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any]) -> Self:
        """The spec, of a class below this one, whose :meth:`identity` this is.

        It knows the classes that are loaded, and imports nothing on a file's word: whoever reads
        what plug-ins wrote loads them first (:func:`bench.interfaces.registry.load`).

        Raises:
            ValueError: no class has that name and revision, or the fields do not suit it.
        """
        name, revision = identity.get("name"), identity.get("revision")
        if not (named := cls._named(name)):
            raise ValueError(unknown(cls.kind, name, {c.name for c in cls._below() if c.name}))
        for known in reversed(named):
            if known.revision == revision:
                return known(**identity["fields"])
        raise ValueError(
            f"{cls.kind} {name!r}: expected revision {named[-1].revision}, got {revision}; it was "
            "made by another version of the code: make it again"
        )

    @classmethod
    def _named(cls, name: object) -> list[type[Self]]:
        return [known for known in cls._below() if known.name and known.name == name]

    @classmethod
    def _below(cls) -> Iterator[type[Self]]:
        for sub in cls.__subclasses__():
            yield sub
            yield from sub._below()

    @property
    def digest(self) -> str:
        """sha256 of :meth:`identity`, 64 hexadecimal digits."""
        return digest_of(self.identity())

    @property
    def lacking(self) -> tuple[str, ...]:
        """Of :attr:`needs`, the fields that are still as if nobody had filled them."""
        fields = type(self).model_fields
        return tuple(
            field
            for field in self.needs
            if getattr(self, field) == fields[field].get_default(call_default_factory=True)
        )

    @property
    def own_name(self) -> str:
        """The name that :meth:`called` gave it; empty without one."""
        return self._called

    @property
    def label(self) -> str:
        """The name in tables: the one that it was given, or else what was asked for.

        That is the plug-in's name and the preset in brackets, if one was named. Fields that differ
        from it, or from the defaults, follow in parentheses. A preset that was not named is not
        looked for: a new one must not rename an old result.
        """
        return self._called or self._described()

    def _described(self) -> str:
        """The label of one that has no name of its own."""
        fields = type(self).model_fields
        preset = f"[{self._preset}]" if self._preset else ""
        usual = (
            dict(type(self)(**self.presets[self._preset]))
            if preset
            else {f: i.get_default(call_default_factory=True) for f, i in fields.items()}
        )
        changed = [
            f"{field}={self.told(field, value)}"
            for field, value in self
            if not self._marked(field, "runtime") and value != usual[field]
        ]
        return f"{self.name}{preset}({', '.join(changed)})" if changed else f"{self.name}{preset}"

    def told(self, field: str, value: object) -> str:
        """A field's value as labels show it: of a path the name alone.

        A field of :data:`PathText` holds one, maybe behind ``kind@``. In others a path is known by its look.
        """
        if not self._names_a_path(field):
            return _AS_A_PATH.sub(lambda found: name_of(found[0]), str(_without_folders(value)))
        text = str(value)
        kind = found[0] if (found := _KIND.match(text)) else ""
        return kind + name_of(text.removeprefix(kind))

    @classmethod
    def _names_a_path(cls, field: str) -> bool:
        if (info := cls.model_fields.get(field)) is None:
            return False
        # Of `PathText | None` the mark is inside.
        among = [getattr(part, "__metadata__", ()) for part in get_args(info.annotation)]
        return any(_PATH in marks for marks in (info.metadata, *among))

    @classmethod
    def _marked(cls, field: str, mark: str) -> bool:
        extra = cls.model_fields[field].json_schema_extra
        return isinstance(extra, dict) and bool(extra.get(mark))


_BEGINS: Final = r"(?:~[^\s/\\]*|\.{1,2}|[A-Za-z]:)?[/\\]"
_WHOLE: Final = re.compile(rf"(?:^|(?<=@)){_BEGINS}(?=\S).*")
"""Text that begins as a path does, or goes on so after an ``@``: one path to its end, with any blanks."""
_AS_A_PATH: Final = re.compile(rf"""(?<![^\s'"(=]){_BEGINS}[^\s'",)]+""")
"""A path within other words, as far as the next blank. An id of the hub, ``owner/name``, is none."""
_KIND: Final = re.compile(r"[^/\\@]*@")
"""How the path of a file begins that has to say what it is, such as ``open_clip:<architecture>@``."""
_ENDS: Final = re.compile(r"[/\\]")


def name_of(path: str) -> str:
    """The last name of a path, in the spelling of any system: what labels tell of it."""
    return _ENDS.split(path.rstrip("/\\"))[-1]


def with_name(label: str, name: str) -> str:
    """A label with one more thing that it tells, before the fields that it tells."""
    head, found, fields = label.partition("(")
    return f"{head}({name}{', ' if found else ''}{fields or ')'}"


def _without_folders(value: object) -> object:
    """The value with the name alone of every text in it that is a path."""
    if isinstance(value, str):
        return _WHOLE.sub(lambda found: name_of(found[0]), value)
    if isinstance(value, Mapping):
        return {_without_folders(key): _without_folders(of) for key, of in value.items()}
    return tuple(map(_without_folders, value)) if type(value) is tuple else value


def _texts(value: object) -> Iterator[str]:
    """Every text in a field's value; parts that are specs have looked at their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(pair)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, BaseModel) and not isinstance(value, Spec):
        for _, item in value:
            yield from _texts(item)


def content(path: Path) -> str:
    """sha256 of a file, read once as long as it does not change; ``absent`` without it."""
    try:
        status = path.stat()
    except OSError:
        return "absent"  # whoever reads it says so
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


def weights_digest(files: Iterable[Path], source: str) -> str:
    """The digest of the weights among files: a network is the same one in any folder, beside any settings.

    Args:
        files: What a plug-in reads.
        source: Where the user said that they are; it is hashed where there are none.
    """
    sums = {content(file) for file in files if file.suffix == ".safetensors"}
    return digest_of(sorted(sums) if sums else source)


@lru_cache(maxsize=4096)  # a judge of faces names 1000 photographs
def _sha256(path: Path, inode: int, size: int, modified: int) -> str:
    return file_sha256(path)
