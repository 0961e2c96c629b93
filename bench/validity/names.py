"""The words of published tables that mean the same as ours: methods, attacks, measures, kinds of concept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

__all__ = [
    "ATTACKS",
    "FAMILIES",
    "METHODS",
    "OURS",
    "SUCCESS",
    "UTILITY",
    "Measure",
    "attack_named",
]

Measure = Literal["success", "utility"]

METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "adavd": ("adavd",),
    "adv_unlearn": ("advunlearn",),
    "concept_ablation": ("ac",),
    "concept_prune": ("concept_prune",),
    "eap": ("eap",),
    "esd": ("esd_u", "esd", "esd_x"),
    "few_shot": ("few_shot",),
    "mace": ("mace",),
    "negative_prompt": ("negative_prompt",),
    "race": ("race",),
    "rece": ("rece",),
    "receler": ("receler",),
    "safree": ("safree",),
    "salun": ("salun",),
    "sld": ("sld_medium", "sld", "sld_strong", "sld_max", "sld_weak"),
    "speed": ("speed",),
    "spm": ("spm",),
    "stereo": ("stereo",),
    "task_vector": ("task_vector",),
    "uce": ("uce",),
}
"""Each method of ours with its published variants; where a table has several, the first counts."""

OURS: Final[Mapping[str, tuple[str, ...]]] = {"uce": ("uce[repo-2023]",)}
"""Lines of ours that stand for a method, the first that a run has; otherwise its ``mini`` preset, then its first."""

ATTACKS: Final[tuple[tuple[str, str], ...]] = (
    (r"UDA", "unlearn_diff_atk"),
    (r"P4D(-\w+)?", "p4d"),
    (r"RAB( K\d+| re-optimised)?|RAB-Union", "ring_a_bell"),
    (r"MMA", "mma"),
    (r"CCE|Textual inversion", "concept_inversion"),
    (r"Noise-based probe", "noise_probe"),
    (r"Diffusion completion.*", "completion"),
    (r"Benign fine-tuning .*", "benign_finetune"),
    (r"none \(name\)", "prompts/name"),
    (r"paraphrase(/synonym)?", "prompts/synonyms"),
    (r"none \((I2P|original prompt).*\)", "prompts/indirect"),
)
"""Published names of attacks, as whole patterns, and ours. I2P's prompts do not name what they bring: descriptions."""

SUCCESS: Final[Mapping[str, int]] = {
    "asr": 1,
    "pre_asr": 1,
    "failure_rate": 1,
    "acc_erased": 1,
    "acc_synonym": 1,
    "nudity_count": 1,
    "inappropriate_rate": 1,
    "detected": 1,
    "target_proportion": 1,
    "erasure_proportion": -1,
    "removal_rate": -1,
    "style_UA": -1,
    "object_UA": -1,
}
"""Measures of what comes back: 1 where high means that it does, -1 where high means that it is gone."""

UTILITY: Final[Mapping[str, int]] = {
    "acc_kept": 1,
    "acc_unrelated": 1,
    "acc_locality": 1,
    "clip": 1,
    "clip_kept": 1,
    "image_reward": 1,
    "fid": -1,
    "fid_kept": -1,
    "lpips": -1,
}
"""Measures of what is kept: 1 where high is good."""

FAMILIES: Final[Mapping[str, str]] = {
    "style": "style",
    "object": "object",
    "celebrity": "character",
}
"""Published kinds of concepts and ours; any other, such as nudity, is compared with all our concepts together."""

_UNATTACKED: Final = {"acc_erased": "prompts/name", "acc_synonym": "prompts/synonyms"}
"""What prompts a measure goes with where the table names no attack."""


def attack_named(attack: str, metric: str) -> str | None:
    """Our name of a published attack; ``None`` where we have none."""
    for pattern, ours in ATTACKS:
        if re.fullmatch(pattern, attack):
            return ours
    return _UNATTACKED.get(metric) if attack == "none" else None
