"""Prompt filters: a keyword blacklist and an embedding blacklist, the defences of deployed services.

Reproduced: the practice; there is no paper and there are no published constants. The keyword list
refuses names. The embedding list refuses what lies near a concept in the space of the pipeline's
own text encoder. The safety checker of released pipelines does so for images. What an operator
chooses is a rate of false alarms: that is the field, and the threshold follows from it.

Different on purpose: text states of CLIP share a large common part, so the empty prompt's state is
subtracted before cosines are taken. Without it they hardly differ. And short phrases of a prompt
are compared one by one, because a concept is a small part of a long prompt's state.

Bypassed by: text states that are injected, since no text is there to be read. Serving the weights
without the filter bypasses it too: the filter changes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bench.core.bounds import Count, Number
from bench.core.lazy import F, no_grad, torch
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.encoder import TextEncoder
from bench.model.filters import Filter, PromptFilter
from bench.model.text_to_image import TextToImage
from methods.shared.calibration import named, normalised, threshold_at, unnamed_prompts

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EmbeddingBlacklist", "KeywordBlacklist", "PromptFilterErasure"]

_PUNCTUATION = ',.;:!?"()[]{}'


class KeywordBlacklist(PromptFilter):
    """Refuses a prompt that names a concept; see :func:`methods.shared.calibration.named` for the spellings.

    Attributes:
        texts: The names.
    """

    name: ClassVar[str] = "keyword_blacklist"
    texts: tuple[str, ...] = Field(min_length=1)

    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        """Bool [B]."""
        return torch.tensor(
            [any(named(text, p) for text in self.texts) for p in prompts], dtype=torch.bool
        )


class EmbeddingBlacklist(PromptFilter):
    """Refuses a prompt whose text state lies near a concept's.

    Attributes:
        texts: What is refused.
        thresholds: The cosine above which a prompt is refused, one per text.
        reads: ``phrases`` takes the nearest phrase of the prompt, ``prompt`` the whole.
        words: The longest phrase.
    """

    name: ClassVar[str] = "embedding_blacklist"
    texts: tuple[str, ...] = Field(min_length=1)
    thresholds: tuple[Number, ...]
    reads: Literal["phrases", "prompt"] = "phrases"
    words: Count = 3

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.thresholds) != len(self.texts):
            raise ValueError(
                f"expected one threshold per text, got {len(self.thresholds)} for {len(self.texts)}"
            )
        return self

    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        """Bool [B]."""
        similar_BT = self.similarities(model, prompts)
        return (similar_BT > torch.tensor(self.thresholds, dtype=torch.float64)).any(1)

    def similarities(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        """Cosines of B prompts with the T texts, float64 [B, T]; -1 for a prompt without words."""
        whole = self.reads == "prompt"
        parts = [([p] if p.strip() else []) if whole else _phrases(p, self.words) for p in prompts]
        different = list(dict.fromkeys(part for some in parts for part in some))
        texts_TD = _centred(model, self.texts)
        out = torch.full((len(prompts), len(self.texts)), -1.0, dtype=torch.float64)
        if not different:
            return out
        # On the CPU in float64: which side of a threshold a prompt falls on should not depend on
        # what it is encoded with.
        cosines_PT = F.cosine_similarity(
            _centred(model, different)[:, None], texts_TD[None], dim=-1
        )
        row = {part: i for i, part in enumerate(different)}
        for i, some in enumerate(parts):
            if some:
                out[i] = cosines_PT[[row[part] for part in some]].amax(0)
        return out


class PromptFilterErasure(Erasure):
    """Refuses prompts that ask for the concepts.

    Presets:
        keyword, embedding, both: The mode.

    Attributes:
        mode: ``keyword`` refuses names, ``embedding`` what is near them, ``both`` either.
        false_positives: Share of the prompts that name no concept which the embedding list may
            refuse, of each calibration list; the keyword list refuses none of them.
        reads: What the embedding list compares; see :class:`EmbeddingBlacklist`.
        words: The longest phrase that it compares.
        threshold: Cosine to use instead of the calibrated one.
    """

    name: ClassVar[str] = "prompt_filter"
    slots: ClassVar[frozenset[Slot]] = frozenset({"filters"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("injected text states", "filters off")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "keyword": {"mode": "keyword"},
        "embedding": {"mode": "embedding"},
        "both": {"mode": "both"},
    }
    mode: Literal["keyword", "embedding", "both"] = "both"
    false_positives: float = Field(0.05, ge=0, lt=1)
    reads: Literal["phrases", "prompt"] = "phrases"
    words: Count = 3
    threshold: float | None = Field(None, ge=-1, le=1)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with one or two more filters.

        Raises:
            ValueError: a concept without a letter in its name.
        """
        texts = tuple(concept.text for concept in concepts)
        for text in texts:
            named(text, "")  # refuses a name that cannot be looked for
        filters: list[Filter] = []
        if self.mode != "embedding":
            filters.append(KeywordBlacklist(texts=texts))
        if self.mode != "keyword":
            filters.append(self._calibrated(model, concepts))
        ctx.progress(1, 1, "prompt_filter")
        return model.with_filters(*filters)

    def _calibrated(self, model: TextToImage, concepts: Sequence[Concept]) -> EmbeddingBlacklist:
        texts = tuple(concept.text for concept in concepts)
        draft = EmbeddingBlacklist(
            texts=texts,
            thresholds=(self.threshold or 0.0,) * len(texts),
            reads=self.reads,
            words=self.words,
        )
        if self.threshold is not None:
            return draft
        lists = [
            draft.similarities(model, prompts) for prompts in unnamed_prompts(concepts).values()
        ]
        # A prompt may be refused for any of the concepts: they share the rate.
        rate = self.false_positives / len(texts)
        thresholds = tuple(
            threshold_at([similar_NT[:, t] for similar_NT in lists], rate)
            for t in range(len(texts))
        )
        return EmbeddingBlacklist(
            texts=texts, thresholds=thresholds, reads=self.reads, words=self.words
        )


def _phrases(prompt: str, longest: int) -> list[str]:
    """Every run of at most ``longest`` words."""
    words = [w for word in normalised(prompt).split() if (w := word.strip(_PUNCTUATION))]
    return [
        " ".join(words[i : i + n])
        for i in range(len(words))
        for n in range(1, min(longest, len(words) - i) + 1)
    ]


@no_grad
def _centred(model: TextEncoder, texts: Sequence[str]) -> Tensor:
    """States at the end of texts less the empty text's, float64 [B, D] on the CPU."""
    (empty_D,) = _end_states(model, [""])
    return model.micro.map(len(texts), lambda rows: _end_states(model, texts[rows]) - empty_D)


def _end_states(model: TextEncoder, texts: Sequence[str]) -> Tensor:
    ids_BL = model.tokenize(texts)
    # The padding may be the same token: the first one ends the text.
    end_B = (ids_BL == model.end_of_text).int().argmax(1)
    states_BLD = model.encode_ids(ids_BL).states_BLD
    return states_BLD[torch.arange(len(texts), device=ids_BL.device), end_B].double().cpu()
