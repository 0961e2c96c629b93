"""A damaged file of a user's is refused by the plan, whoever reads it, and not by every score of the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.core.spec import Spec
from bench.interfaces import Concept, Judge
from tests.readers import READERS, declared, readers, weights_in


def pointer(path: Path) -> None:
    """Git LFS's, in the place of a file that was not fetched."""
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n")


def cut(path: Path) -> None:
    """A download that broke off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def not_finite(path: Path) -> None:
    """A training that diverged."""
    tensors = load_file(path)
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, path, metadata={"format": "pt"})


def another(path: Path) -> None:
    """Weights of something else."""
    save_file({"something": torch.zeros(3)}, path, metadata={"format": "pt"})


def a_layer_less(path: Path) -> None:
    """Weights that are not whole."""
    tensors = load_file(path)
    del tensors[max(tensors)]
    save_file(tensors, path, metadata={"format": "pt"})


DAMAGES: Final[Mapping[str, Callable[[Path], None]]] = {
    "pointer": pointer, "cut": cut, "not finite": not_finite, "missing": Path.unlink,
    "another": another, "a layer less": a_layer_less,
}  # fmt: skip


def planned(spec: Spec, concept: Concept) -> None:
    """Asks whatever a plan asks a plug-in, in its order."""
    if isinstance(spec, Judge):
        assert spec.network
        spec.check_concept(concept)
    assert spec.identity()
    spec.check_base(model_folder())


def refusal(name: str, fields: dict[str, str]) -> str:
    """The line that a plan says of a plug-in; empty: it takes it."""
    try:
        planned(READERS[name].make(fields), READERS[name].concept)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", readers())
def test_a_plan_names_the_file_that_is_damaged(name: str, tmp_path: Path) -> None:
    reader, here, sound = READERS[name], tmp_path / "here", tmp_path / "sound"
    fields = reader.write(here)
    assert refusal(name, fields) == ""
    shutil.copytree(here, sound)
    files = declared(reader.make(fields))
    weights = {path.resolve() for path in weights_in(here)}
    untold = []
    for file in sorted(files & {path.resolve() for path in here.rglob("*")}):
        for damage, spoil in DAMAGES.items():
            if damage != "pointer" and file not in weights:
                continue  # some settings may be left out
            spoil(file)
            said = refusal(name, fields)
            if not (str(file) in said or str(file.parent) in said) or "\n" in said:
                untold.append((file.name, damage, said))
            shutil.copyfile(sound / file.relative_to(here.resolve()), file)
    assert not untold
    assert refusal(name, fields) == "", "what was put back is taken again"


def test_a_clip_of_another_kind_or_architecture_is_refused(tmp_path: Path) -> None:
    folder = Path(READERS["clip_zero_shot"].write(tmp_path / "here")["clip"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    said = refusal("clip_zero_shot", {"clip": str(folder)})
    assert said.startswith("clip_zero_shot.clip: ") and str(folder) in said and "'siglip'" in said
    weights = folder / "model.safetensors"
    known = READERS["clip_zero_shot open_clip"].write(tmp_path)["clip"].partition("@")[0]
    for source, told in (
        (f"open_clip:NoSuchArch@{weights}", "'NoSuchArch'"),
        (f"{known}@{weights}", "expected weights of the architecture"),
        (f"open_clip:@{weights}", "expected open_clip:<architecture>@<path"),
    ):
        said = refusal("clip_zero_shot", {"clip": source})
        assert said.startswith("clip_zero_shot.clip: ") and told in said and "\n" not in said


def test_a_unet_of_another_base_is_refused(tmp_path: Path) -> None:
    fields = READERS["task_vector"].write(tmp_path)
    (path,) = (tmp_path / "unet").glob("*.safetensors")
    tensors = load_file(path)
    first = max(tensors)
    save_file(tensors | {first: torch.zeros(*tensors[first].shape, 2)}, path)
    said = refusal("task_vector", fields)
    assert said.startswith("task_vector.with: ") and f"{first} has the shape" in said
