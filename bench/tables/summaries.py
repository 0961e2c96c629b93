"""The columns of the tables that answer one question each: the worst case, the threshold, the flags, ..."""

from __future__ import annotations

import pyarrow as pa

from bench.tables.frames import Column, Schema

__all__ = [
    "ACCESSES",
    "AGREEMENT",
    "ANY",
    "BUDGET",
    "FLAGS",
    "FLAG_NAMES",
    "MEASURES",
    "STAGES",
    "SWEEP",
    "TRANSFER",
    "WORST",
]

ANY = "any"
ACCESSES = ("typed", "searched", "embedding", "latent", "weights")

_TEXT, _I64, _F64 = pa.string(), pa.int64(), pa.float64()
_SUITE = Column("suite", _TEXT, "The suite.")
_JUDGE = Column("judge", _TEXT, "Who decided; the judge of record comes first.")
_METHOD = Column("method", _TEXT, "The erasure method, `none` for the unedited model.")
_CONCEPT = Column("concept", _TEXT, "The erased concept; `all` pools them.")


def _rate(name: str, description: str) -> tuple[Column, Column, Column]:
    """A rate that may be missing, with the bounds of its interval."""
    head = name.removesuffix("share").removesuffix("accuracy")
    return (
        Column(name, _F64, description, (), True),
        Column(f"{head}low", _F64, "Lower bound of its interval.", (), True),
        Column(f"{head}high", _F64, "Upper bound of its interval.", (), True),
    )


WORST = Schema(
    "worst",
    "One line per (judge, method, concept, access), derived from the rows by "
    "`bench.tables.worst.worst_per_goal`: the share of goals that at least one attack broke. A goal is "
    "broken if any held-out image of any of these attacks is a success. The goals are those that every "
    "search among the attacks tried: more prompts that nobody searched from would thin the worst case "
    "out. Where no goal is shared, or none of them searches, all of their goals count. Controls do not "
    "compete. Intervals are 95 % Wilson intervals; goals are clusters, and so are repeats of an edit.",
    (
        _SUITE,
        _JUDGE,
        _METHOD,
        _CONCEPT,
        Column(
            "access",
            _TEXT,
            "Which attacks: `typed` prompts, which nothing was searched for (plain prompts, prompt "
            "files); `searched` prompts; those that hold an `embedding`, the `latent` noise or the "
            "`weights`; or `any` of them, the worst case.",
            (*ACCESSES, ANY),
        ),
        Column("attacks", _I64, "How many attacks."),
        Column("goals", _I64, "Goals; (concept, goal) in pooled lines."),
        Column("broken", _I64, "Goals that were broken; of several repeats, each counts its own."),
        *_rate("share", "Share of the goals that were broken, over all repeats."),
        Column("images", _F64, "Held-out images per goal, mean.", (), True),
        Column(
            "control_goals",
            _I64,
            "Goals that a control tried as well: random words for prompts and embeddings, seed search "
            "for latents, any of them for `any`; there is none for weights.",
        ),
        *_rate("control_share", "Share of those that any of these controls broke: luck."),
        Column("control_images", _F64, "Held-out images per goal of the controls.", (), True),
        *_rate("retained_accuracy", "Accuracy on prompts for other concepts, as in `table`."),
        Column("edit_seconds", _F64, "Mean time of an edit.", (), True),
    ),
)

SWEEP = Schema(
    "sweep",
    "One line per (judge, method, attack, label set, threshold), derived from the rows by "
    "`bench.tables.sweep.sweep`. It gives the success that each attack would have at another threshold of the "
    "judge, all concepts pooled, counted as in `table`. Attacks that stop by a threshold stopped by their "
    "surrogate's, whatever stands here.",
    (
        _SUITE,
        _JUDGE,
        _METHOD,
        Column("attack", _TEXT, "The attack; `attack/prompt_set` for one with several sets."),
        Column(
            "labels",
            _TEXT,
            "Which labels count: `suite`, those of the suite; or a published set of the judge's labels.",
        ),
        Column("threshold", _F64, "A score from here on is a success."),
        Column("n", _I64, "Images that count: ok, refused and blanked."),
        Column("successes", _I64, "Images with a score from the threshold on."),
        Column("asr", _F64, "Attack success rate: successes / n.", (), True),
        Column("asr_low", _F64, "Lower bound of its interval.", (), True),
        Column("asr_high", _F64, "Upper bound of its interval.", (), True),
    ),
)

BUDGET = Schema(
    "budget",
    "One line per (judge, method, attack, budget), derived by `bench.tables.budget.budget`, all concepts "
    "pooled: success against what the search took. Written where a suite holds an attack at several budgets, "
    "or searches that kept account of their looks.",
    (
        _SUITE,
        _JUDGE,
        _METHOD,
        Column("attack", _TEXT, "The attack with its preset, without the constants that differ."),
        Column(
            "view",
            _TEXT,
            "`record`: each line of the suite on held-out seeds, by the judge. `own`: one search after each "
            "of its looks, by its surrogate on its own seeds; `judge` is empty then.",
            ("record", "own"),
        ),
        Column("line", _TEXT, "The attack's line in `table`."),
        Column("look", _I64, "Index of the look, from 0; -1 for the finds of a line."),
        Column("images", _F64, "Images per goal that the search had seen, mean.", (), True),
        Column(
            "steps",
            _F64,
            "Gradient steps per goal, mean. Each takes one gradient per draw of the attack's preset. The looks "
            "of a search lie evenly among its steps.",
            (),
            True,
        ),
        Column("n", _I64, "Images on held-out seeds; goals where the view is `own`."),
        Column("successes", _I64, "Those that show the concept; goals whose best look did."),
        *_rate("share", "successes / n."),
    ),
)

STAGES = Schema(
    "stages",
    "One line per (judge, method, concept, attack, stage) of an ensemble whose goals leave when they are "
    "broken, derived from the rows by `bench.tables.stages.stages`. The surrogate decides who "
    "leaves; who is broken is the judge's word on held-out images of every find.",
    (
        _SUITE,
        _JUDGE,
        _METHOD,
        _CONCEPT,
        Column("attack", _TEXT, "The ensemble's line in `table`."),
        Column("stage", _I64, "Its place in the ensemble, from 1."),
        Column("by", _TEXT, "The attack that it is."),
        Column("access", _TEXT, "What that holds.", ("prompt", "embedding", "latent", "weights")),
        Column(
            "goals", _I64, "Goals that met the stage: those that held until there in its own view."
        ),
        Column("left", _I64, "Of them, those that it called broken, and that left."),
        Column("broken", _I64, "Goals whose first success, by the judge, is a find of this stage."),
        Column(
            "false_leaves",
            _I64,
            "Goals that left here, and no find of any stage is a success: later stages might have broken them.",
        ),
        Column("images", _F64, "Images per goal that the search had seen up to here, mean."),
        *_rate("share", "Goals broken up to this stage / all goals of the ensemble."),
    ),
)

MEASURES = Schema(
    "measures",
    "One line per (method, concept, metric), derived from the rows by `bench.tables.measures.measures`. "
    "It says what an edit cost by every metric of the suite, with 95 % intervals clustered by prompt. Concept "
    "`all` pools the rows of values per image. Of values per set it has the mean over concepts, since "
    "sets of other sizes do not compare.",
    (
        _SUITE,
        _METHOD,
        _CONCEPT,
        Column(
            "metric",
            _TEXT,
            "The metric, or a value of one that has several. `clip_score x100` is the mean of "
            "max(100 cos, 0): how papers print the CLIP score.",
        ),
        Column("against", _TEXT, "What a set is compared with; empty for values per image."),
        Column("value", _F64, "Its mean, or the value of the set.", (), True),
        Column("low", _F64, "Lower bound of its interval.", (), True),
        Column("high", _F64, "Upper bound of its interval.", (), True),
        Column("images", _I64, "Images that it rests on; of sets, the fewest of a concept."),
    ),
)

AGREEMENT = Schema(
    "agreement",
    "One line per (pair of judges, method, concept), derived from the rows by "
    "`bench.tables.agreement.agreement`: how far two judges decide alike on the same images. Written "
    "where the suite has more than one judge. Images that either of them did not judge are left out.",
    (
        _SUITE,
        Column("judge", _TEXT, "One judge, the judge of record first."),
        Column("other", _TEXT, "The other."),
        Column("method", _TEXT, "The erasure method; `all` pools them."),
        _CONCEPT,
        Column("n", _I64, "Images that both judged."),
        Column("both", _I64, "Both see the concept."),
        Column("judge_only", _I64, "The one sees it, the other does not."),
        Column("other_only", _I64, "The other way round."),
        Column("neither", _I64, "Neither sees it."),
        Column("agreement", _F64, "Share of the images on which they decide alike.", (), True),
        Column(
            "kappa",
            _F64,
            "Cohen's kappa: agreement beyond chance; 1 is perfect, 0 what chance gives. Missing where "
            "both decide one way throughout.",
            (),
            True,
        ),
        Column("kappa_low", _F64, "Lower bound of its interval, clustered by goal.", (), True),
        Column("kappa_high", _F64, "Upper bound of its interval.", (), True),
    ),
)

TRANSFER = Schema(
    "transfer",
    "One line per (judge, attack, concept, source, target), derived from the rows by "
    "`bench.tables.transfer.matrix`, where the suite names attacks under `transfer`. It is what an "
    "attack found on one method, tried on another, on the seeds of the ordinary trial. Where "
    "source and target are one, it is the ordinary attack. Counted as in `table`.",
    (
        _JUDGE,
        Column("attack", _TEXT, "The attack; `attack/prompt_set` for one with several sets."),
        _CONCEPT,
        Column("source", _TEXT, "The method the candidates were found on."),
        Column("target", _TEXT, "The method they were tried on."),
        Column("n", _I64, "Images that count: ok, refused and blanked."),
        Column("attempted", _I64, "All images, with errors and abstentions."),
        Column("clusters", _I64, "Goals among the n; (concept, goal) in pooled lines."),
        Column("successes", _I64, "Images where a label that counts reaches its threshold."),
        Column("asr", _F64, "Attack success rate: successes / n.", (), True),
        Column("asr_low", _F64, "Lower bound of its interval.", (), True),
        Column("asr_high", _F64, "Upper bound of its interval.", (), True),
    ),
)

FLAG_NAMES = (
    *("bad_gradients", "no_gradient_path", "budget_still_paying"),
    *("weaker_beats_stronger", "search_above_held_out", "judge_disagreement"),
    *("utility_collapse", "repeats_differ", "too_few_samples"),
)

FLAGS = Schema(
    "flags",
    "One line per raised flag: a sign that a line of the table should not be taken at face value. "
    "`docs/flags.md` says when each is raised and what to do; no line is hidden or changed by one.",
    (
        _METHOD,
        Column("concept", _TEXT, "The erased concept, or `all` for a pooled line."),
        Column("attack", _TEXT, "The table's attack; empty where it concerns the edit."),
        Column("flag", _TEXT, "What was seen.", FLAG_NAMES),
        Column("value", _F64, "How much of it, in the unit that `detail` names.", (), True),
        Column("detail", _TEXT, "What was seen, in words."),
    ),
)
