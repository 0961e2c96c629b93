"""Where a concept is guided to, and which token of a prompt stands for it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.core.errors import from_pydantic, shown
from bench.interfaces import Concept
from bench.model.text_to_image import TextToImage
from bench.toolkit.wording import family_word

__all__ = ["Guides", "guide_or_neighbour", "guides_or_text", "last_token"]


class Guides(BaseModel):
    """Texts that concepts are guided to, by their family.

    Attributes:
        style: For styles.
        other: For every other family.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: str
    other: str

    def of(self, concept: Concept) -> str:
        """The concept's."""
        return self.style if concept.family == "style" else self.other


def guides_or_text(value: object) -> object:
    """A text, or :class:`Guides`: a union of pydantic's would name both wrong, whichever was meant."""
    if isinstance(value, Mapping):
        try:
            return Guides.model_validate(value)
        except ValidationError as error:
            raise from_pydantic(error, Guides) from error
    if value is None or isinstance(value, str | Guides):
        return value
    raise ValueError(f"expected a text, or a mapping of style and other to one, got {shown(value)}")


def guide_or_neighbour(concept: Concept) -> str:
    """Something to draw instead of a concept: its guide, else its first neighbour, else the word of its family."""
    near = concept.neighbours[0] if concept.neighbours else family_word(concept.family)
    return concept.guide or near


def last_token(model: TextToImage, text: str) -> int:
    """Index of the last token before the end token; 0, the start token, for an empty text."""
    ids = model.tokenize([text])[0].tolist()
    end = ids.index(model.end_of_text)
    return max(0, end - 1)
