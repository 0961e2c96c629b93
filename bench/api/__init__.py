"""The suite from Python: load a model, erase, attack, judge, evaluate."""

from bench.api.calls import attack, concepts, erase
from bench.api.evaluation import evaluate
from bench.api.judging import judge

__all__ = ["attack", "concepts", "erase", "evaluate", "judge"]
