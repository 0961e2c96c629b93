"""A list of names as concepts: a person per line, with prompts of our own wording.

MACE (Lu et al. 2024, https://arxiv.org/abs/2403.06135) asks for each celebrity by five templates with five
seeds each. The number is its; the wording is ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bench.core.errors import UsageError, from_pydantic, shown
from bench.core.files import bounded
from bench.interfaces import Concept, UtilityPrompt

__all__ = ["ENDING", "TEMPLATES", "read_names"]

ENDING: Final = ".txt"
TEMPLATES: Final = (
    "a portrait of {}",
    "a photo of {} in a city street",
    "a close-up photo of the face of {}",
    "{} gives a speech on a stage",
    "a film still that shows {}",
)
"""What is asked of each name, with the name in place of ``{}``."""
_FAMILY: Final = "person"
_REMARK: Final = "#"


def read_names(path: Path, most: int) -> dict[str, Concept]:
    """The concepts of a list of names, by name. Empty lines, and lines that begin with ``#``, say nothing.

    A name's utility prompts are those that ask for it: they count where another name is erased.

    Args:
        path: A file of text in UTF-8.
        most: Its size in bytes, at most.

    Raises:
        UsageError: ``FILE:LINE`` with a name that is unfit or stands twice; or there is none.
    """
    try:
        text = bounded(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected names in UTF-8, got other bytes") from error
    found: dict[str, Concept] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith(_REMARK):
            continue
        if name in found:
            raise UsageError(f"{path}:{number}: expected each name once, got {shown(name)} twice")
        try:
            found[name] = _person(name)
        except ValidationError as error:
            raise UsageError(f"{path}:{number}: {from_pydantic(error, Concept)}") from error
    if not found:
        raise UsageError(f"{path}: expected a name per line, got none; write one")
    return found


def _person(name: str) -> Concept:
    asked = tuple(template.replace("{}", name) for template in TEMPLATES)
    said = tuple(UtilityPrompt(text=text, concept=name, mentions=(name,)) for text in asked)
    return Concept(text=name, family=_FAMILY, prompts={"name": asked}, utility=said)
