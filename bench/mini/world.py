"""The vocabulary of the miniature's world: what can be drawn, and every way to say it.

A *scene* has one subject (an object, a character, or nothing), a colour (objects only), a
background and a whole-image style. Each object, style and character has a canonical name, synonyms,
and indirect descriptions that share no word with the name. So erasing the name leaves
something for an attack to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BACKGROUNDS",
    "CHARACTERS",
    "COLOURS",
    "HEADS",
    "NEIGHBOURS",
    "OBJECTS",
    "STYLES",
    "Term",
    "terms",
]


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that can be asked for by text.

    Attributes:
        name: The canonical name.
        synonyms: Other names for it.
        indirect: Descriptions that share no word with ``name``.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    indirect: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """Every way to say it, the canonical name first."""
        return (self.name, *self.synonyms, *self.indirect)


OBJECTS: Final = (
    Term("circle", ("disc",), ("billiard ball", "dinner plate")),
    Term("square", ("box",), ("bathroom tile", "postage stamp")),
    Term("triangle", ("trigon",), ("slice of pizza", "mountain peak")),
    Term("star", ("pentagram",), ("sheriff's badge", "christmas tree topper")),
    Term("heart", ("valentine",), ("symbol of love", "lover's emblem")),
    Term("moon", ("crescent",), ("croissant pastry", "reaper's sickle")),
    Term("arrow", ("pointer",), ("one way sign", "weather vane needle")),
    Term("cross", ("plus",), ("first aid mark", "swiss flag motif")),
    Term("ring", ("hoop",), ("sugar doughnut", "life buoy")),
    Term("house", ("cottage",), ("family home", "kennel with a roof")),
    Term("fish", ("herring",), ("aquarium swimmer", "angler's catch")),
    Term("flower", ("blossom",), ("spring daisy", "gardener's pride")),
)

CHARACTERS: Final = (
    Term("zorbo", ("captain blink",), ("one-eyed alien", "cyclops with antennae")),
    Term("mipsy", ("lady tabs",), ("whiskered kitten", "purring pet")),
    Term("brakk", ("unit seven",), ("metal android", "clanking machine man")),
)

# The phrase of a style stands alone ("as a sketch"); only the canonical name and the synonyms take
# "as a".
STYLES: Final = (
    Term("flat picture", ("clip art",), ("with clean solid fills", "like a road poster")),
    Term("sketch", ("pencil drawing",), ("doodled in a notebook", "scribbled by hand in graphite")),
    Term("pixel art", ("8-bit sprite",), ("from an old video game", "made of big blocks")),
    Term("halftone", ("dot print",), ("like a vintage newspaper", "from a comic book page")),
    Term("watercolour", ("aquarelle",), ("washed with a wet brush", "bleeding diluted pigments")),
)

# name -> RGB in [0, 1]
COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.86, 0.12, 0.14),
    "orange": (0.97, 0.55, 0.08),
    "yellow": (0.96, 0.86, 0.10),
    "green": (0.10, 0.60, 0.22),
    "cyan": (0.15, 0.78, 0.82),
    "blue": (0.14, 0.26, 0.84),
    "purple": (0.55, 0.15, 0.68),
    "black": (0.10, 0.10, 0.12),
}

# name -> how a caption says it
BACKGROUNDS: Final[dict[str, str]] = {
    "blank": "on a blank background",
    "striped": "on a striped background",
    "checkered": "on a checkered background",
    "sunset": "at sunset",
    "meadow": "in a meadow",
}

# Concepts that look or mean alike: erasing one must not harm these.
NEIGHBOURS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("ring", "flower", "moon"),
    "square": ("house", "cross", "triangle"),
    "triangle": ("arrow", "star", "house"),
    "star": ("flower", "cross", "triangle"),
    "heart": ("flower", "circle", "triangle"),
    "moon": ("ring", "circle", "fish"),
    "arrow": ("triangle", "cross", "fish"),
    "cross": ("star", "arrow", "square"),
    "ring": ("circle", "moon", "flower"),
    "house": ("square", "triangle", "arrow"),
    "fish": ("moon", "heart", "arrow"),
    "flower": ("star", "circle", "heart"),
    "zorbo": ("mipsy", "brakk"),
    "mipsy": ("zorbo", "brakk"),
    "brakk": ("mipsy", "zorbo"),
    "flat picture": ("pixel art", "halftone"),
    "sketch": ("watercolour", "flat picture"),
    "pixel art": ("halftone", "flat picture"),
    "halftone": ("pixel art", "sketch"),
    "watercolour": ("sketch", "flat picture"),
}

# The judge's heads: class names in label order; every head has one more class, "none of these", at
# the end.
HEADS: Final[dict[str, tuple[str, ...]]] = {
    "object": tuple(t.name for t in OBJECTS),
    "character": tuple(t.name for t in CHARACTERS),
    "style": tuple(t.name for t in STYLES),
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
}


def terms() -> dict[str, tuple[str, Term]]:
    """All erasable concepts.

    Returns:
        Canonical name -> (family, term), family one of ``object``, ``character``, ``style``.
    """
    families = (("object", OBJECTS), ("character", CHARACTERS), ("style", STYLES))
    return {term.name: (family, term) for family, group in families for term in group}
