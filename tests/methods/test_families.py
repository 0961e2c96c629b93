"""All that the field releases, as it is saved: each family loads, is converted, or is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng, registry
from bench.model.text_to_image import TextToImage
from methods.checkpoint import Checkpoint
from methods.released.convert.convert import convert
from methods.released.convert.raw import PICKLED
from tests.methods.families import AS_IT_IS, CONVERTED, FAMILIES
from tests.methods.releases import LAYERS

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def built(path: Path) -> Checkpoint:
    """The method after the check of a plan."""
    spec = registry.build("method", {"checkpoint": {"path": str(path)}})
    assert isinstance(spec, Checkpoint)
    spec.check_base(model_folder())
    return spec


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_loads_or_is_refused_in_one_line(
    name: str, model: TextToImage, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    (tmp_path / "release").mkdir()
    path, edit = family.make(model, tmp_path / "release")
    target = tmp_path / "made.safetensors"
    if family.loads not in (AS_IT_IS, CONVERTED):
        with pytest.raises(UsageError) as caught:
            convert(str(path), str(target)) if path.suffix in PICKLED else built(path)
        assert family.says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not target.exists()
        return
    if family.loads == CONVERTED:
        with pytest.raises(UsageError, match="run `tvc-bench convert`"):
            built(path)
        convert(str(path), str(target), layers=LAYERS)
        path = target
    edited = built(path)(model, [Concept(text="star")], rng=Rng(("family",)))
    assert edited.weights.keys() == edit.keys()
    if family.acts is not None:
        assert edited.digest == family.acts(model).digest
    elif "LoRA" not in name and "compressed" not in name:  # whose sums are rounded
        # To the bit what the authors saved: whatever is sampled from it, and every row, is the same.
        assert edited.digest == model.with_weights({n: w.float() for n, w in edit.items()}).digest
    for full, value in edit.items():
        torch.testing.assert_close(edited.parameter(full), value.float(), rtol=1e-6, atol=1e-7)


def test_the_page_has_the_table_of_them() -> None:
    rows = [f"| {name} | {f.file} | {f.loads} |" for name, f in FAMILIES.items()]
    page = PAGE.read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert table[1:] == rows, "\n".join(rows)
