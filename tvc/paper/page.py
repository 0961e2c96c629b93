"""The page of the claims: what was measured, with intervals, and whether it held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from bench.report.template import template
from bench.run.provenance import commit

__all__ = ["page"]

_TITLES: Final = {
    "robustness": "1. Task vectors are more robust to inputs not seen in training than input-dependent erasure",
    "target": "Target, with alpha from Diverse Inversion: success at most 5 %, accuracy at least 90 % of the unedited",
    "diversity": "2. Diversity makes the strength estimate more robust",
    "front": "The best edit there is, on the front of all subsets and strengths",
    "subsets": "3. Diverse Inversion lets a subset of the weights be edited, erasing more and harming less",
    "frontier": "4. Robustness against cost, over strengths",
    "losses": "5. What is lost along the strength",
    "layers": "6. Which layers carry the concept, and which the cost",
    "shapes": "7. Other shapes of the vector",
    "strip": "8. The same prompts, vectors and strengths side by side",
    "map": "9. The map of the prompt space",
}

_TEXTS: Final = {
    "robustness": (
        "Success of the competitor less that of the task vector, at the largest strength at which the task vector "
        "keeps at least the competitor's accuracy. The name is what all of them were trained on: it decides "
        "nothing. Inverted embeddings are an adaptive attack, searched for anew on each edited model, with images "
        "and seeds that no edit saw."
    ),
    "target": (
        "Whole network, all training seeds together. The strength is the larger of what the diverse embeddings and "
        "the concept's own ask for. It is chosen through the miniature's CLIP on "
        "inverted embeddings; the judge of record, the prompts and the seeds are others."
    ),
    "diversity": (
        "The strength estimated from the concept's prompt alone, from plain and from diverse inversions, against "
        "what is needed. That is the smallest strength of the sweep from which on no embedding of the held-out attacks "
        "passes. One passes if it shows the concept more often than the worst of them typically would at a rate of "
        "5 %. One attack is on the unedited model, one on "
        "the model edited at each estimate. An estimate covers if it is at least what is needed. A round (ours, not "
        "the paper's) searches on the edited model and raises the strength until its finds no longer pass."
    ),
    "subsets": (
        "How much accuracy each subset of the weights leaves, over strengths. Those count at which no prompt set and "
        "no held-out embedding succeeds more often than 5 %. Strength and best subset are chosen on half of the "
        "utility prompts and reported on the other half."
    ),
    "front": (
        "The target again, for the edit that keeps most among all subsets and strengths of the sweep. A search "
        "that knew the judge could find it. Chosen on half of the utility prompts, reported on the other half; it "
        "holds if at least 90 % of the unedited model's accuracy is left."
    ),
    "frontier": (
        "At each strength the embeddings are searched anew on the edited model. A filled point: every kind of typed "
        "prompt succeeds at most 5 %. Dotted: embeddings succeed at most 20 %, and 85 % of the accuracy is kept. "
        "Rows choose a strength on half of the utility prompts and report what is kept on the other half."
    ),
    "losses": (
        "The share of the unedited model's images of utility prompts in which the edited model draws the same "
        "attribute from the same noise. That is the object, character, colour, background or style, by the judge of "
        "record. Dashes: prompts "
        "for the concept's neighbours."
    ),
    "layers": (
        "Each block and each kind of layer edited alone, and all but it, of the first training seed. The strength is "
        "the one that is chosen for the whole network. Up: what is kept. Right: what is erased of all typed prompts."
    ),
    "shapes": (
        "The frontier again, for other shapes of the same vector. They are its largest entries, its matrices at "
        "rank 8, and what is left beside the vectors of the concept's neighbours. Two are trained otherwise: the mean "
        "of three training seeds, and a longer fine-tune with smaller steps."
    ),
    "strip": (
        "Framed columns ask for the concept, by its name, a synonym and a description; the others ask for something "
        "else. Each column has one noise. Rows: the unedited model, then each vector at each strength."
    ),
    "map": (
        "The probability of the concept over a plane of the embedding space, for the unedited and the edited models, "
        "of the first training seed. The plane goes through the concept (0, 0), a neighbour (1, 0) and an inverted "
        "embedding."
    ),
}

_PARTS: Final = {"robustness": ("target",), "subsets": ("front",)}

_VERDICTS: Final = {
    "yes": "held",
    "no": "**did not hold**",
    "open": "open: the interval holds 0",
    "": "",
}


def page(
    verdicts: pd.DataFrame, pictures: Mapping[str, Sequence[str]], studied: str, command: str
) -> str:
    """Markdown.

    Args:
        verdicts: From :func:`tvc.paper.verdicts.verdicts`.
        pictures: Claim -> its pictures' files without their end, for those that were measured.
        studied: Sentences on what was.
        command: What made the page.
    """
    state = commit()
    rows = {str(name): list(of.itertuples()) for name, of in verdicts.groupby("claim")}
    return template("tvc.paper", "page.md.j2").render(
        command=command.replace("`", "'"),
        commit=state["commit"],
        dirty=bool(state["dirty"]),
        studied=studied,
        pictures=pictures,
        rows=defaultdict(list, rows),
        titles=_TITLES,
        texts=_TEXTS,
        parts=_PARTS,
        said=_VERDICTS,
    )
