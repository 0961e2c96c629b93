from __future__ import annotations

import pytest
import torch

from tvc.shaping import averaged, by_block, largest, low_rank, orthogonal
from tvc.task_vector import TaskVector


def vector_of(**deltas: torch.Tensor) -> TaskVector:
    names = {"a": "unet.conv_in.weight", "b": "unet.mid_block.resnets.0.conv1.bias"}
    return TaskVector("0" * 64, {names[k]: v for k, v in deltas.items()})


def values(vector: TaskVector) -> list[list[float]]:
    return [d.flatten().tolist() for d in vector.deltas.values()]


def test_the_largest_entries_are_of_all_tensors_together() -> None:
    vector = vector_of(a=torch.tensor([[1.0, -5.0], [0.5, 2.0]]), b=torch.tensor([4.0, 0.1]))
    assert values(largest(vector, 0.5)) == [[0.0, -5.0, 0.0, 2.0], [4.0, 0.0]]
    assert values(largest(vector, 1.0)) == values(vector)
    with pytest.raises(ValueError, match="share in"):
        largest(vector, 0.0)


def test_a_low_rank_is_the_best_approximation_and_leaves_vectors_alone() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0])).view(3, 3, 1, 1)
    found = low_rank(vector_of(a=matrix, b=torch.tensor([1.0, 2.0])), 2)
    assert values(found) == [[3.0, 0, 0, 0, 2.0, 0, 0, 0, 0], [1.0, 2.0]]
    with pytest.raises(ValueError, match="rank of at least 1"):
        low_rank(found, 0)


def test_the_mean_of_vectors() -> None:
    one, other = vector_of(a=torch.ones(1, 2)), vector_of(a=torch.tensor([[3.0, 5.0]]))
    assert values(averaged([one, other])) == [[2.0, 3.0]]
    with pytest.raises(ValueError, match="at least one"):
        averaged([])


def test_what_is_left_beside_others_has_no_part_of_them() -> None:
    vector = vector_of(a=torch.tensor([[1.0, 2.0, 3.0]]), b=torch.tensor([4.0]))
    first = vector_of(a=torch.tensor([[1.0, 0.0, 0.0]]), b=torch.tensor([0.0]))
    second = vector_of(
        a=torch.tensor([[1.0, 0.0, 0.0]]), b=torch.tensor([1.0])
    )  # not at right angles
    assert values(orthogonal(vector, [first, second, first])) == [[0.0, 2.0, 3.0], [0.0]]
    assert values(orthogonal(vector, [])) == values(vector)
    with pytest.raises(ValueError, match="same parameters"):
        orthogonal(vector, [vector_of(a=torch.ones(1, 3))])


def test_a_factor_per_block() -> None:
    vector = vector_of(a=torch.ones(1, 2), b=torch.ones(1))
    assert values(by_block(vector, {"unet.mid_block": 0.5})) == [[1.0, 1.0], [0.5]]
    with pytest.raises(ValueError, match=r"no block 'unet.moon'; this vector has: unet\.conv_in"):
        by_block(vector, {"unet.moon": 1.0})
