"""The four plug points, and the values that pass between them and the harness: a plug-in's one import.

Tensors are named with their shape: B rows, L tokens, D text width, C h w latent, H W pixels.
"""

from __future__ import annotations

from bench.core.progress import Progress, silent
from bench.core.rng import Rng
from bench.interfaces.attack import Attack
from bench.interfaces.concept import Concept, Name, PromptSets, UtilityPrompt, bare
from bench.interfaces.context import Context
from bench.interfaces.erasure import Erasure
from bench.interfaces.finding import Access, Candidate, Goal, Target, Trace
from bench.interfaces.judge import Judge
from bench.interfaces.metric import Measure, Metric, UtilityBatch
from bench.interfaces.set_metric import Features, SetMetric
from bench.model.families.roles import Role
from bench.model.slots import Slot

__all__ = [
    "Access",
    "Attack",
    "Candidate",
    "Concept",
    "Context",
    "Erasure",
    "Features",
    "Goal",
    "Judge",
    "Measure",
    "Metric",
    "Name",
    "Progress",
    "PromptSets",
    "Rng",
    "Role",
    "SetMetric",
    "Slot",
    "Target",
    "Trace",
    "UtilityBatch",
    "UtilityPrompt",
    "bare",
    "silent",
]
