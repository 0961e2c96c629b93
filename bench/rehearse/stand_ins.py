"""Puts stand-ins in the place of the networks that a suite names and that are not here.

A network at a path that is there is used as it is. One of the hub would have to be downloaded, so it is replaced
too: a rehearsal asks nothing of any network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.config.concepts import erased_concepts, known_concepts
from bench.config.suite_file import Entry, SuiteFile
from bench.core.files import expanded
from bench.judges.imagenet_classifier import IMAGENETTE
from bench.model.pipeline.inspect import local_folder
from bench.rehearse import networks, tensors
from bench.toolkit.clip import load_clip

__all__ = ["StandIns"]

_IMAGENET: Final = 1000
_FEWEST: Final = 129
"""Classes of a stand-in for any other classifier, at least: as many as UnlearnDiffAtk's has artists."""
_FILES: Final[dict[str, dict[str, str]]] = {
    "imagenet_classifier": {"weights": "imagenet"},
    "image_classifier": {"weights": "classifier"},
    "vqa": {"weights": "questions"},
    "face_identity": {"weights": "embedder", "references": "photographs"},
    "clip_zero_shot": {"clip": "clip"},
    "clip_score": {"clip": "clip"},
    "drift": {"clip": "clip"},
    "cmmd": {"clip": "clip"},
    "fid": {"inception": "inception"},
    "kid": {"inception": "inception"},
    "precision_recall": {"inception": "inception"},
    "lpips": {"weights": "lpips"},
    "task_vector": {"clip": "clip"},
    "image_reward": {"weights": "image_reward"},
    "q16": {"clip": "clip", "prompts": "prompts"},
}
"""The fields of our plug-ins that name a network, and what stands in for it. Two plug-ins have rules of their own."""
_ENDINGS: Final = dict.fromkeys(("inception", "lpips", "prompts", "edited"), ".safetensors")
_OF_THE_FILE: Final = (
    "path",
    "hub",
    "commit",
    "revision",
    "subfolder",
    "sha256",
    "scale",
    "gate",
    "names",
)
"""What a checkpoint says of its file, and not of a stand-in."""
_CHECKER: Final = "safety_checker"
_KEYS: Final = ("methods", "judges", "metrics")


@dataclass(slots=True)
class StandIns:
    """The stand-ins of a rehearsal, each written once.

    Attributes:
        folder: Where they are written.
        words: The tokenizer of the base.
        real_size: As wide and deep as the real ones.
        base: The folder of the base that the rehearsal uses.
        tiny: That base is a tiny one: somebody's edit of the real one does not fit it.
        replaced: By what the suite names, the stand-in's path.
    """

    folder: Path
    words: Any
    real_size: bool
    base: Path
    tiny: bool
    replaced: dict[str, Path] = field(default_factory=dict)

    def in_place(self, file: SuiteFile) -> dict[str, Any]:
        """The keys of a suite that name networks, with stand-ins for those that are not here."""
        names, home = _names(file), local_folder(file.base)
        made: dict[str, Any] = {
            key: [self._entry(entry, names, home) for entry in getattr(file, key)] for key in _KEYS
        }
        return {**made, "surrogate": self._entry(file.surrogate, names, home)}

    def _entry(self, entry: Entry, names: list[str], home: Path | None) -> Entry:
        if isinstance(entry, str):
            return entry
        ((name, given),) = entry.items()
        fields = dict(given)
        if name == "checkpoint":
            return {name: self._edited(fields)}
        if name == "output_filter":
            return {name: self._filtered(fields, names, home)}
        for key, what in _FILES.get(name, {}).items():
            source = fields.get(key)
            if isinstance(source, str) and source and not _is_here(source):
                fields[key] = str(self._stand_in(source, what, names, fields))
                if what == "photographs":
                    fields["faces"] = "whole"  # in noise there is no face to be found
        return {name: fields}

    def _filtered(
        self, fields: dict[str, Any], names: list[str], home: Path | None
    ) -> dict[str, Any]:
        """An output filter with its checker: where it names none, the one in the real base's folder."""
        checks, source = fields.get("checker") == "safety_checker", str(fields.get("source") or "")
        if source and not _is_here(source):
            source = str(self._stand_in(source, "checker" if checks else "clip", names, fields))
        elif checks and not source and home is not None and (home / _CHECKER).is_dir():
            source = str(home / _CHECKER)
        return {**fields, "source": source} if source else fields

    def _edited(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint with a file that fits the base; what is here is used, unless the base is a tiny one."""
        path, hub = (str(fields.get(key) or "") for key in ("path", "hub"))
        if not (path or hub) or (not hub and not self.tiny and _is_here(path)):
            return fields
        source = "/".join(filter(None, (path or hub, str(fields.get("subfolder") or ""))))
        kept = {key: value for key, value in fields.items() if key not in _OF_THE_FILE}
        return {**kept, "path": str(self._stand_in(source, "edited", [], fields))}

    def _stand_in(
        self, source: str, what: str, names: list[str], fields: Mapping[str, Any]
    ) -> Path:
        if source not in self.replaced:
            called = Path(source.rpartition("/")[2].partition("@")[0]).stem or what
            place = self.folder / str(len(self.replaced)) / f"{called}{_ENDINGS.get(what, '')}"
            self._writers(names, fields)[what](place)
            self.replaced[source] = place
        return self.replaced[source]

    def _writers(
        self, names: list[str], fields: Mapping[str, Any]
    ) -> dict[str, Callable[[Path], None]]:
        real = self.real_size
        return {
            "imagenet": lambda p: networks.write_classifier(p, _imagenet(names), real_size=real),
            "classifier": lambda p: networks.write_classifier(
                p, _classes(names, fields.get("classes")), real_size=real
            ),
            "questions": lambda p: networks.write_questions(p, real_size=real),
            "embedder": lambda p: networks.write_embedder(p, real_size=real),
            "photographs": lambda p: networks.write_photographs(p, names),
            "clip": lambda p: networks.write_clip(p, self.words, real_size=real),
            "inception": lambda p: networks.write_inception(p),
            "lpips": lambda p: networks.write_lpips(p),
            "image_reward": lambda p: tensors.write_image_reward(p, real_size=real),
            "prompts": lambda p: tensors.write_q16(p, load_clip(str(fields["clip"])).width),
            "checker": lambda p: tensors.write_safety_checker(p, real_size=real),
            "edited": lambda p: tensors.write_checkpoint(
                p, self.base, differences=fields.get("values") == "difference"
            ),
        }


def _is_here(source: str) -> bool:
    return expanded(
        source.rpartition("@")[2] if source.startswith("open_clip:") else source
    ).exists()


def _names(file: SuiteFile) -> list[str]:
    """The concepts that a suite knows: a judge is asked for each."""
    known = known_concepts(file)
    return list(dict.fromkeys([*known, *(c.text for c in erased_concepts(file, known))]))


def _imagenet(names: list[str]) -> list[str]:
    """A thousand classes: those of the concepts where ImageNet has them, or at the end where it has none."""
    labels = [f"LABEL_{number}" for number in range(_IMAGENET)]
    free = iter(range(_IMAGENET - 1, -1, -1))
    for name in names:
        if name.casefold() not in IMAGENETTE:
            labels[next(free)] = name
    return labels


def _classes(names: list[str], classes: object) -> list[str]:
    """The classes that a suite's map names, a class per other concept, and others up to the usual number."""
    given = classes if isinstance(classes, Mapping) else {}
    wanted = [
        one
        for called in given.values()
        for one in ((called,) if isinstance(called, str) else tuple(called))
    ]
    wanted += [name for name in names if name not in given]
    found = list(dict.fromkeys(wanted))
    return [*found, *(f"class {number}" for number in range(len(found), _FEWEST))]
