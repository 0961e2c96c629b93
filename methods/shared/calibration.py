"""Parts of several filters: how a concept's name may be spelled, and thresholds at a stated false-positive rate.

A threshold is calibrated on prompts that do not name the concept. They come from what a method may
know: the concept's neighbours, which are the likeliest false alarms, and a fixed list of everyday
prompts. They never come from a suite.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.interfaces import Concept
from bench.toolkit.wording import varied_mentions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["THINGS", "named", "normalised", "threshold_at", "unnamed_prompts"]

# -- spelling ------------------------------------------------------------------------------------

# What stands for a letter in "leetspeak": digits and signs of its shape.
_SHAPES = {
    "a": "4@", "b": "8", "e": "3", "g": "9", "i": "1!|", "l": "1|", "o": "0", "s": "5$", "t": "7+", "z": "2",
}  # fmt: skip
# Cyrillic and Greek letters that look Latin; Unicode's normal forms leave them alone.
_LOOKALIKES = str.maketrans("аеіјкорсухѕԁԛԝһαεικνορτυχ", "aeijkopcyxsdqwhaeikvoptux")
_WITHIN = r"(?:[^\w\s]|_){0,2}"  # st-ar, s.t.a.r; a bound keeps the search linear
_BETWEEN = r"[\W_]{0,3}"  # pixel art, pixel-art, pixelart


def normalised(text: str) -> str:
    """Lower case, without accents, invisible characters or full-width forms, look-alike letters made Latin."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = (c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))
    return "".join(kept).translate(_LOOKALIKES)


def named(text: str, prompt: str) -> bool:
    """Whether a prompt names something, in any usual spelling.

    Found are singular, plural and possessive of each word; words written with hyphens, apart or
    together; signs inside a word (``st-ar``). So are any case, accents, full-width and other
    compatibility forms, and invisible characters. So are look-alike letters and leetspeak
    (``5t4r``). Not found are longer words that begin or end with it (``starfish``), derived words
    (``starry``) and synonyms.
    """
    found = _pattern(text).finditer(normalised(prompt))
    return any(any(c.isalpha() for c in match[0]) for match in found)  # 90 is not "go"


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    words = re.findall(r"[^\W_]+", normalised(text).replace("'", ""))
    if not words:
        raise ValueError(f"expected a name with a letter or a digit in it, got {text!r}")
    spelled = [
        "(?:" + "|".join(_spelling(form) for form in sorted(_forms(word), key=len, reverse=True)) + ")"
        for word in words
    ]  # fmt: skip
    # Neither end may lie inside a longer word.
    return re.compile(rf"(?<![^\W_]){_BETWEEN.join(spelled)}(?:['’]?s|['’])?(?![^\W_])")


def _spelling(word: str) -> str:
    letters = (f"[{c}{re.escape(_SHAPES[c])}]" if c in _SHAPES else re.escape(c) for c in word)
    return _WITHIN.join(letters)


def _forms(word: str) -> set[str]:
    """A word with its plurals and, if it looks like a plural, its singulars."""
    singulars = {word}
    if len(word) > 3:
        for ending, instead in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
            if word.endswith(ending) and not word.endswith("ss"):
                singulars.add(word.removesuffix(ending) + instead)
    return singulars | {plural for one in singulars for plural in _plurals(one)}


def _plurals(word: str) -> Iterator[str]:
    yield word + "s"
    yield word + "es"
    if word.endswith("y"):
        yield word[:-1] + "ies"
    if word.endswith("f"):
        yield word[:-1] + "ves"
    if word.endswith("fe"):
        yield word[:-2] + "ves"
    if word.endswith("man"):
        yield word[:-3] + "men"


# -- calibration ---------------------------------------------------------------------------------

THINGS = (
    "dog", "cat", "horse", "bird", "tree", "mountain", "river", "car", "bicycle", "boat", "train", "bridge",
    "cup of coffee", "loaf of bread", "bowl of fruit", "chair", "table", "lamp", "book", "clock", "guitar",
    "camera", "shoe", "hat", "umbrella", "man", "woman", "child", "crowd", "city street", "village", "beach",
    "forest", "desert", "kitchen", "library", "market", "garden", "castle", "robot",
)  # fmt: skip
_EVERYDAY_PROMPTS = ("a photo of a {}", "a drawing of a green {}", "a {} in the morning light")


def unnamed_prompts(
    concepts: Sequence[Concept], things: Sequence[str] = THINGS
) -> dict[str, tuple[str, ...]]:
    """Prompts that name none of the concepts, in lists by name.

    Args:
        concepts: Only ``text``, ``family`` and ``neighbours`` are read.
        things: What the everyday prompts are about.

    Returns:
        ``neighbours``, if there are any, and ``everyday``.
    """
    near = []
    for concept in concepts:
        patterns = varied_mentions(concept.family)
        near += [p.replace("{}", name) for p in patterns for name in concept.neighbours]
    everyday = [p.replace("{}", thing) for thing in things for p in _EVERYDAY_PROMPTS]
    lists = {
        name: tuple(dict.fromkeys(p for p in some if not any(named(c.text, p) for c in concepts)))
        for name, some in (("neighbours", near), ("everyday", everyday))
    }
    return {name: prompts for name, prompts in lists.items() if prompts}


def threshold_at(scores: Sequence[Tensor], false_positives: float) -> float:
    """The lowest threshold that stays within a false-positive rate in each of several lists.

    Args:
        scores: One tensor [N] per list, of what must not be flagged.
        false_positives: At most this share of each list lies *above* the threshold.

    Raises:
        ValueError: there are no scores, or one is not finite.
    """
    highest = []
    for values_N in scores:
        if not len(values_N) or not bool(values_N.isfinite().all()):
            raise ValueError(
                f"expected finite scores to calibrate on, got {values_N.tolist()[:5]}; check the model"
            )
        allowed = min(math.floor(false_positives * len(values_N)), len(values_N) - 1)
        highest.append(values_N.double().sort(descending=True).values[allowed].item())
    if not highest:
        raise ValueError("expected at least one list of scores to calibrate on, got none")
    # Rounded up: a score must not cross the threshold by the last bits, which depend on the machine.
    return math.ceil(max(highest) * 1e5) / 1e5
