"""Refuses prompts about minors, whatever the concept: as goals, in a search, and as candidates.

Every attack is called through ``Attack.__call__``, controls and plug-ins too. Goals about minors are an
error before anything runs. The model an attack is handed refuses such prompts (:class:`NoMinors`), so
a search cannot try them. A candidate that speaks of minors is withheld: neither stored, published
nor sampled, and each image it owed counts as refused. What an edit costs is measured, and methods
are trained, on harmless prompts; those are not looked at here.

A text is read as CLIP's tokenizer reads it. Words end where letters do, at a digit or an underscore
too, and signs between them say nothing. So ``girl2``, ``child_photo`` and ``15yo`` are what they
are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final

from bench.core.errors import UsageError, shown
from bench.core.lazy import torch
from bench.interfaces.finding import Candidate, Goal
from bench.model.encoder import TextEncoder
from bench.model.filters import PromptFilter

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["WITHHELD", "NoMinors", "about_minors", "refuse_brought", "refuse_minors", "withhold"]

WITHHELD = "(withheld: it speaks of minors)"
"""Stands for a candidate's prompt; it is itself refused wherever a prompt would be."""

# Everything below is searched in a text's parts, a space between any two: see :func:`_parts`.
_WORDS: Final = (
    r"minors?|(grand|step|god|school|foster)?child(s|z|ren|rens|ish|like|hoods?)?",
    r"(grand|step|school)?kid(s|z|die|dies|dy|do|dos)?|toddlers?|infants?|infancy|infantile",
    r"(grand)?bab(y|ys|ies|yish|yhood)|new ?borns?|neonat(e|es|al)|preemies?",
    r"(pre)?teen(s|z|ie|ies)?|(pre)?teen ?age(r|rs|d)?|tween(s|ie|ies)?|tween ?age(r|rs|d)?",
    r"adolescen(t|ts|ce)|(pre)?pubescen(t|ts|ce)|juveniles?|youngsters?|jailbaits?",
    r"under ?aged?|under (the age of )?(18|eighteen)",
    r"(school)?girl(s|z|y|ie|ies|ish|ishly|hoods?)?|(school)?boy(s|z|ish|ishly|hoods?)?",
    r"pupils?|(pre)?schoolers?|preschools?|kindergart(en|ens|ner|ners|ener|eners)",
    r"((first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)|st|nd|rd|th) graders?",
    r"lolitas?|loli(con)?s?|shota(con)?s?|(grand|step|god)?(daughter|son)s?",
)
_TO_17: Final = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
    "|seventeen"
)
# Not the end of a larger number: twenty-one is no age of a minor.
_BEFORE: Final = "".join(
    f"(?<!{ten} )"
    for ten in (
        *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
        *("hundred", "hundred and", "thousand", "thousand and"),
    )
)
# A zero that ends a number written digit by digit is no age: "5 0" is fifty, and "1 0" ten. "1 8" may be
# one and eight.
_ZERO: Final = r"(?<! \d )(?<!^\d )0+( 0)?|0*1 0"
_AGE: Final = rf"(0*(1[0-7]|[1-9])(\.\d+)?|0+\.\d+|{_ZERO}|{_BEFORE}({_TO_17}))"
_AGES: Final = (
    rf"{_AGE} ?(years?|yrs?) ?(olds?|of age|young)",
    rf"{_AGE} ?yos?(?! yos?\b)",  # and no yo-yos
    rf"(\d\d?|{_TO_17}|eighteen) ?(months?|weeks?) ?(olds?|of age)",
    rf"(age[ds]?|age[ds]? of|under the age of) {_AGE}",
)
_MINORS: Final = re.compile(rf"(?<![^ ])({'|'.join((*_WORDS, *_AGES))})(?![^ ])")
# One of these is in whatever the pattern finds: looking for them first is twenty times as quick.
_STEMS: Final = (
    *("minor", "child", "kid", "toddler", "infan", "bab", "born", "neonat", "preemie", "een"),
    *(
        "adolescen",
        "pubescen",
        "juvenile",
        "youngster",
        "jailbait",
        "under",
        "girl",
        "boy",
        "pupil",
    ),
    *("school", "kinderg", "grader", "loli", "shota", "daughter", "son"),
    *("old", "age", "young", "yo", "y/", "y."),
)
_PART: Final = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
# As "15 y/o": only with its sign, for "y" and "o" are tokens too.
_YEARS_OLD: Final = re.compile(r"(?<![^\W\d_])y[/.] ?o(?![^\W\d_])")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Beside what Unicode calls controls, formats and marks that take no room: fillers of Hangul, which
# it calls letters.
_UNSEEN: Final = {"Cc", "Cf", "Mn", "Me"}
_FILLERS: Final = "\u115f\u1160\u3164\uffa0"


class NoMinors(PromptFilter):
    """Refuses prompts about minors; the harness's, and no part of an edit."""

    name: ClassVar[str] = "no_minors"

    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        """Bool [B]."""
        return torch.tensor([about_minors(prompt) for prompt in prompts], dtype=torch.bool)


@lru_cache(maxsize=100_000)
def about_minors(text: str) -> bool:
    """Whether a text speaks of minors; it errs on the side of yes.

    What takes no room is read both ways: as if it were not there, and as what ends a word.
    """
    plain = text.lower() if text.isascii() else _normal(text)
    readings = _readings(plain)
    return any(
        any(stem in reading for stem in _STEMS) and _MINORS.search(_parts(reading))
        for reading in readings
    )


def _readings(plain: str) -> set[str]:
    """The ways to read a text: characters that take no room are nothing, or gaps."""
    if plain.isascii() and plain.isprintable():  # as nearly all are: thousands take a moment
        return {plain}
    return {plain.translate(_gaps(plain, gap)) for gap in ("", " ")}


def _normal(text: str) -> str:
    """The text in small letters of one kind."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _gaps(text: str, gap: str) -> dict[int, str]:
    """Characters that take no room in a text, and what stands for them."""
    return {
        ord(c): gap
        for c in set(text)
        if not c.isspace() and (unicodedata.category(c) in _UNSEEN or c in _FILLERS)
    }


def _parts(text: str) -> str:
    """Its words and numbers, a space between any two."""
    return " ".join(_PART.findall(_YEARS_OLD.sub("yo", _THOUSANDS.sub("", text))))


def refuse_minors(goals: Iterable[Goal]) -> None:
    """Refuses to attack prompts about minors, whatever the concept.

    Raises:
        UsageError: a goal's prompt or concept speaks of minors.
    """
    for goal in goals:
        for what, text in (("prompt", goal.prompt), ("concept", goal.concept.text)):
            if about_minors(text):
                raise UsageError(
                    f"goal {goal.id!r}: prompts about minors are refused, and its {what} may be one: "
                    f"{shown(text)} (concept {shown(goal.concept.text)}); remove it"
                )


def refuse_brought(found: Iterable[Candidate], goals: Iterable[Goal], *, by: str) -> None:
    """Refuses prompts about minors that an attack brought by itself, such as from a file.

    Args:
        found: Its candidates.
        goals: What it was asked to try; candidates of these are withheld, not refused.
        by: The attack's label, for the error.

    Raises:
        UsageError: a candidate that answers no goal speaks of minors.
    """
    asked = {goal.id for goal in goals}
    for candidate in found:
        if candidate.goal not in asked and about_minors(candidate.prompt):
            raise UsageError(
                f"{by}, row {candidate.goal}: prompts about minors are refused, and this "
                f"may be one: {shown(candidate.prompt)}; remove the row"
            )


def withhold(found: Candidate) -> Candidate:
    """The candidate; without what makes an image, if it speaks of minors.

    Its noise stays: it says nothing, and that it is there says how many images are owed.
    """
    if not about_minors(found.prompt):
        return found
    return replace(found, prompt=WITHHELD, states_LD=None, pooled_D=None, weights=None)
