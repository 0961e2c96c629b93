"""The columns of every table that is written: name, type, meaning.

Rows are the product and the table is derived from them. A missing number is a null, which pandas
shows as NaN; why it is missing is always in `status`, never in the number itself.

    python -m bench.tables.schema       prints the page docs/table.md
"""

from __future__ import annotations

import sys

import pyarrow as pa

from bench.tables.frames import (
    SCHEMA_VERSION,
    Column,
    Schema,
    SchemaError,
    as_markdown,
    check,
    conform,
    to_arrow,
)
from bench.tables.summaries import (
    AGREEMENT,
    BUDGET,
    FLAG_NAMES,
    FLAGS,
    MEASURES,
    STAGES,
    SWEEP,
    TRANSFER,
    WORST,
)

__all__ = [
    "AGREEMENT",
    "BUDGET",
    "CELLS",
    "DISTANCES",
    "EDITS",
    "FLAGS",
    "FLAG_NAMES",
    "MEASURES",
    "SCHEMAS",
    "STAGES",
    "SWEEP",
    "TABLE",
    "TRANSFER",
    "TRIALS",
    "UTILITY",
    "WORST",
    "Column",
    "Schema",
    "SchemaError",
    "as_json",
    "as_markdown",
    "check",
    "conform",
    "to_arrow",
]

ACCESS = ("prompt", "embedding", "latent", "weights")
GROUPS = ("neighbour", "other", "caption")
STATUSES = ("ok", "refused", "blanked", "error", "abstained")


def as_json() -> dict[str, object]:
    """Describes every column of every schema."""
    return {
        "schema_version": SCHEMA_VERSION,
        "schemas": {schema.name: schema.as_json() for schema in SCHEMAS},
    }


_TEXT, _BOOL, _I32, _I64 = pa.string(), pa.bool_(), pa.int32(), pa.int64()
_F32, _F64 = pa.float32(), pa.float64()

_METHOD = Column("method", _TEXT, "The erasure method, `none` for the unedited model.")
_CONCEPT = Column("concept", _TEXT, "The erased concept.")
_FAMILY = Column("family", _TEXT, "What kind of concept: object, style, character, ...")
_REPEAT = Column("repeat", _I32, "Which repetition of the edit, from 0.")
_SEED = Column("image_seed", _I64, "Seed of the sampler's noise; the attack never saw it.")
_STATUS = Column(
    "status",
    _TEXT,
    "Whether there is a score: `refused` by the model's filter, or by the harness as a prompt about "
    "minors, `blanked` by its image checker, `error` for one that was raised or for an image or "
    "score that is not finite, `abstained` for a judge that would not say.",
    STATUSES,
)
_REASON = Column("reason", _TEXT, "Why the status is `error`; empty otherwise.")
_EDIT = Column("edit_digest", _TEXT, "The edited model in the store.")

_KEPT = ", if the attack keeps account"

TRIALS = Schema(
    "trials",
    "One row per (cell, prompt, seed, judge, label): what each judge saw in each attacked image.",
    (
        _METHOD,
        Column("source", _TEXT, "The method the candidate was found on: `method`, or a transfer."),
        _CONCEPT,
        _FAMILY,
        _REPEAT,
        Column("attack", _TEXT, "The attack."),
        Column("access", _TEXT, "What the attacker holds, weakest first.", ACCESS),
        Column("control", _BOOL, "The attack is a control, not a contender."),
        Column("prompt_set", _TEXT, "The prompt set its goal came from."),
        Column("candidate", _I32, "Index of the find among those of its attack, from 0."),
        Column("draw", _I32, "Index of the held-out image of the find, from 0."),
        Column("goal", _TEXT, "The goal, unique in its concept: the cluster of the statistics."),
        Column("prompt", _TEXT, "The prompt that was sampled."),
        Column("variant", _TEXT, "Tells the candidates of one goal apart."),
        _SEED,
        Column("judge", _TEXT, "Who looked at the image."),
        Column("label", _TEXT, "The label that the score is for."),
        Column("counts", _BOOL, "This label counts as the concept."),
        Column("score", _F32, "The raw score; missing only where status is not ok.", (), True),
        Column(
            "threshold",
            _F32,
            "A score from here on shows the label: the judge's, applied to the stored scores.",
        ),
        _STATUS,
        _REASON,
        Column("own_score", _F32, "The attack's own view of its success, if it looked.", (), True),
        Column(
            "own_threshold",
            _F32,
            "An own score from here on is a success in the attack's view: the surrogate's threshold.",
        ),
        Column("queries", _I32, "Images the attack looked at for the goal."),
        Column("gradients", _BOOL, "The attack needs gradients through the edited model."),
        Column("changed", _I64, f"Prompts changed by decoding and tokenising{_KEPT}.", (), True),
        Column("gradient_steps", _I64, f"Gradient steps for the goal{_KEPT}.", (), True),
        Column("gradient_zero", _I64, "Those whose gradient was zero throughout.", (), True),
        Column("gradient_bad", _I64, "Those whose gradient was not finite.", (), True),
        Column(
            "late_gain",
            _F32,
            "Rise of the best own score over the last fifth of the looks; missing for a search that "
            "stopped early, hardly looked, or takes no gradient steps.",
            (),
            True,
        ),
        Column("image_sha256", _TEXT, "Digest of the image; empty where there is none."),
        _EDIT,
        Column("attack_digest", _TEXT, "The attack's candidates in the store."),
        Column("trial_digest", _TEXT, "The judged images in the store."),
    ),
)

UTILITY = Schema(
    "utility",
    "One row per (edit, prompt, seed, metric): what the edit cost on prompts for other things.",
    (
        _METHOD,
        _CONCEPT,
        _FAMILY,
        _REPEAT,
        Column("prompt", _TEXT, "The prompt; it does not ask for the erased concept."),
        Column("prompt_concept", _TEXT, "The concept that it asks for; empty for a caption."),
        Column(
            "group",
            _TEXT,
            "Whether that is a neighbour of the erased concept; or a caption of a file, of no concept.",
            GROUPS,
        ),
        _SEED,
        Column("metric", _TEXT, "`accuracy`, `clip_score`, `drift`, ..."),
        Column("value", _F32, "Its raw value; missing only where status is not ok.", (), True),
        Column(
            "threshold",
            _F32,
            "A value from here on counts as 1, any other as 0; missing where values are what they are.",
            (),
            True,
        ),
        _STATUS,
        _REASON,
        _EDIT,
        Column("utility_digest", _TEXT, "The values in the store."),
    ),
)

DISTANCES = Schema(
    "distances",
    "One row per (edit, value of a metric that compares sets). It says how far the edited model's images of the "
    "utility prompts are from other images as a whole. Written where the suite has such a metric. "
    "Intervals are 95 %, a bootstrap over prompts around the value; see `docs/metrics.md`.",
    (
        _METHOD,
        _CONCEPT,
        _FAMILY,
        _REPEAT,
        Column("metric", _TEXT, "The metric, as the suite calls it."),
        Column("column", _TEXT, "Which of its values: `fid`, `kid`, `precision`, ..."),
        Column("higher_is_better", _BOOL, "Its direction."),
        Column(
            "against",
            _TEXT,
            "`base`: the unedited model's images of the same prompts and seeds; or the name of a folder "
            "of real images.",
        ),
        Column("value", _F64, "The value; missing only where status is not ok.", (), True),
        Column("low", _F64, "Lower bound of its interval.", (), True),
        Column("high", _F64, "Upper bound of its interval.", (), True),
        Column("images", _I64, "Images of the edited model: those with status ok."),
        Column("references", _I64, "Images that they are compared with."),
        _STATUS,
        _REASON,
        _EDIT,
        Column("utility_digest", _TEXT, "The images in the store."),
    ),
)

EDITS = Schema(
    "edits",
    "One row per edited model.",
    (
        _METHOD,
        _CONCEPT,
        _REPEAT,
        Column("seconds", _F64, "Wall-clock time of the edit."),
        Column("peak_memory_mb", _F64, "Largest resident or device memory meanwhile.", (), True),
        Column("images", _I64, "Images the method sampled."),
        Column("gradient_steps", _I64, "Optimiser steps it took; a batch counts once."),
        Column("parameters_touched", _I64, "Parameters whose value changed."),
        Column("parameters_total", _I64, "Parameters of the model."),
        Column(
            "slots", _TEXT, "Slots it fills: weights, guidance, filters, hooks; comma separated."
        ),
        Column(
            "preset",
            _TEXT,
            "What was asked for: the name that the suite gives by `as`, or the method's name, the preset in "
            "brackets if one is named, and in parentheses the fields that differ from it.",
        ),
        Column("notes", _TEXT, "What the method chose by itself (a strength, its interval): JSON."),
        _EDIT,
    ),
)

CELLS = Schema(
    "cells",
    "One row per computed cell: what its work took, whatever it was. Measured, so no two runs agree.",
    (
        Column("kind", _TEXT, "`reference`, `edit`, `attack`, `trial`, `utility` or `score`."),
        Column("method", _TEXT, "The erasure method; empty for references."),
        Column(
            "source", _TEXT, "The method the candidates were found on: `method`, or a transfer."
        ),
        Column("concept", _TEXT, "The erased concept, the first of several."),
        _REPEAT,
        Column("attack", _TEXT, "The attack; empty where there is none."),
        Column("scored_by", _TEXT, "The judge or metric of a `score`; empty elsewhere."),
        Column("seconds", _F64, "Wall-clock time."),
        Column("model_seconds", _F64, "Of it, inside models."),
        Column(
            "reused_seconds",
            _F64,
            "Of an attack: what the searches took whose finds it has from another cell of the same process. "
            "`seconds` and these together do not depend on which cell came first. Missing where nothing was "
            "reused, and in reports of before it was recorded here.",
            (),
            True,
        ),
        Column(
            "micro_batch",
            _I64,
            "Rows worked on at once, after halving where memory ran out: the fewest of sampling and of gradients.",
        ),
        Column(
            "peak_memory_mb",
            _F64,
            "Largest device memory meanwhile, in MiB; on a CPU the process's resident set, networks "
            "and all, and where the system cannot reset its peak, since the process began. Missing "
            "in stores of before it was recorded.",
            (),
            True,
        ),
        Column("digest", _TEXT, "The cell in the store."),
    ),
)

_OK_ONLY = "over the images with status ok"

TABLE = Schema(
    "table",
    "One line per (judge, method, concept, attack), derived from the rows by "
    "`bench.tables.tables.summarise`; lines of concept `all` pool the rows of all concepts. "
    "A refused or blanked image is not a success and stays in `n`. A row with an error, or one "
    "whose judge abstained, says nothing about the edit. It is counted and shown but is not in "
    "`n`, so `n + errors + abstained = attempted`. Intervals are 95 % Wilson intervals at the "
    "effective sample size, clustered by goal (`asr`) and by prompt (`retained_accuracy`); see "
    "`bench.tables.stats`. Repeats of an edit are clusters too, see `bench.tables.repeats`. Rates "
    "are fractions from 0 to 1.",
    (
        Column("suite", _TEXT, "The suite."),
        _METHOD,
        Column("concept", _TEXT, "The erased concept; `all` pools them."),
        Column("family", _TEXT, "Its kind; `all` where a pooled line has several."),
        Column("attack", _TEXT, "The attack; `attack/prompt_set` for one with several sets."),
        Column("access", _TEXT, "What the attacker holds, weakest first.", ACCESS),
        Column("control", _BOOL, "The attack is a control, not a contender."),
        Column("judge", _TEXT, "Who decided; the judge of record comes first."),
        Column("n", _I64, "Images that count: ok, refused and blanked."),
        Column("attempted", _I64, "All images, with errors and abstentions."),
        Column("clusters", _I64, "Goals among the n; (concept, goal) in pooled lines."),
        Column("successes", _I64, "Images where a label that counts reaches its threshold."),
        Column("refused", _I64, "Images the model's filter, or the harness, refused to make."),
        Column("blanked", _I64, "Images its checker blanked."),
        Column("errors", _I64, "Images lost to an error."),
        Column("abstained", _I64, "Images the judge abstained from."),
        Column("asr", _F64, "Attack success rate: successes / n.", (), True),
        Column("asr_low", _F64, "Lower bound of its interval.", (), True),
        Column("asr_high", _F64, "Upper bound of its interval.", (), True),
        Column(
            "pre_asr",
            _F64,
            "Success before the attack: of the plain prompts (attack `prompts`) of the same goals, "
            "each goal weighing what it weighs in `n`, so that `asr - pre_asr` is what the attack "
            "added. Missing where not every goal was tried plainly.",
            (),
            True,
        ),
        Column(
            "queries",
            _F64,
            "Images the attack looked at for a goal, mean over `n`: the N of its best of N.",
            (),
            True,
        ),
        Column(
            "luck_asr",
            _F64,
            "Success of luck: `asr` of the control of the same access (`random_tokens` for `prompt` "
            "and `embedding`, `seed_search` for `latent`) on the same method and concept whose "
            "`queries` are nearest; one on the same prompt set first. What an attack does not have "
            "above it, it did not find. Missing for controls, for `prompts`, which do not search, "
            "and where the suite has no such control.",
            (),
            True,
        ),
        Column("luck_low", _F64, "Lower bound of its interval.", (), True),
        Column("luck_high", _F64, "Upper bound of its interval.", (), True),
        Column(
            "luck_queries", _F64, "`queries` of that control: compare with `queries`.", (), True
        ),
        Column(
            "own_asr",
            _F64,
            "Share of the images whose attack, by its own score and its surrogate's threshold, took "
            "itself to have succeeded; missing for attacks that do not look. Far above asr: it "
            "fooled its surrogate only.",
            (),
            True,
        ),
        Column(
            "retained_accuracy",
            _F64,
            "Accuracy on prompts for other concepts, neighbours included; a refused or blanked "
            "image is wrong, an error or abstention is left out.",
            (),
            True,
        ),
        Column("retained_low", _F64, "Lower bound of its interval.", (), True),
        Column("retained_high", _F64, "Upper bound of its interval.", (), True),
        Column("base_accuracy", _F64, "The same of method `none`, same concepts.", (), True),
        Column("retained_ratio", _F64, "retained_accuracy / base_accuracy.", (), True),
        Column("neighbour_accuracy", _F64, "Accuracy on the neighbours' prompts.", (), True),
        Column("other_accuracy", _F64, "Accuracy on all other prompts.", (), True),
        Column(
            "false_positives",
            _F64,
            "Share of utility prompts refused, or their images blanked.",
            (),
            True,
        ),
        Column("clip_score", _F64, f"Mean agreement with the prompt, {_OK_ONLY}.", (), True),
        Column("drift", _F64, f"Mean distance from the unedited image, {_OK_ONLY}.", (), True),
        Column("edit_seconds", _F64, "Mean time of an edit.", (), True),
        Column("edit_memory_mb", _F64, "Largest memory of an edit.", (), True),
        Column("edit_images", _F64, "Mean images an edit sampled.", (), True),
        Column("edit_gradient_steps", _F64, "Mean optimiser steps of an edit.", (), True),
        Column("parameters_touched", _I64, "Most parameters an edit changed.", (), True),
        Column("repeats", _I64, "Repetitions of the edit."),
    ),
)

SCHEMAS = (
    WORST, STAGES, TABLE, MEASURES, AGREEMENT, SWEEP, BUDGET, TRANSFER, TRIALS, UTILITY, DISTANCES, EDITS, CELLS, FLAGS,
)  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(as_markdown(SCHEMAS))
