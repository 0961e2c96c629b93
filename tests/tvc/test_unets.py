from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.core.errors import UsageError
from bench.interfaces import Erasure, Role
from bench.model.text_to_image import TextToImage
from tvc.method import TaskVectorErasure
from tvc.unets import unet_files, vector_between

NAME = "unet.conv_in.weight"


def tuned(model: TextToImage, shift: float) -> dict[str, torch.Tensor]:
    """The values of the UNet with one tensor moved, by the names a UNet of its own has."""
    values = {n: model.base_values[n].clone() for n in model.having(Role.DENOISER)}
    values[NAME] = values[NAME] + shift
    return {name.removeprefix("unet."): value for name, value in values.items()}


def written(values: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in values.items()}, path)
    return path


def test_a_vector_between_two_unets_has_what_differs_alone(
    model: TextToImage, tmp_path: Path
) -> None:
    one = written(tuned(model, 0.5), tmp_path / "with.safetensors")
    other = written(tuned(model, 0.25), tmp_path / "without.safetensors")
    alone, paired = vector_between(model, one, None), vector_between(model, one, other)
    assert set(alone.deltas) == set(paired.deltas) == {NAME}
    torch.testing.assert_close(alone.deltas[NAME], torch.full_like(alone.deltas[NAME], 0.5))
    torch.testing.assert_close(paired.deltas[NAME], torch.full_like(paired.deltas[NAME], 0.25))
    with pytest.raises(ValueError, match="expected a fine-tuned UNet, got the values of"):
        vector_between(model, one, one)


def test_a_folder_of_diffusers_is_read_whole_or_in_parts(
    model: TextToImage, tmp_path: Path
) -> None:
    values = tuned(model, 0.5)
    written(values, tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors")
    names = sorted(values)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in halves.items():
        written({name: values[name] for name in held}, tmp_path / "parts" / file)
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    place = tmp_path / "parts" / "diffusion_pytorch_model.safetensors.index.json"
    place.write_text(json.dumps(index))
    whole, parts = (vector_between(model, tmp_path / f, None) for f in ("pipe", "parts"))
    assert torch.equal(whole.deltas[NAME], parts.deltas[NAME])
    place.write_text(json.dumps({"weight_map": {"x": "../../outside.safetensors"}}))
    with pytest.raises(UsageError, match="names of files beside it"):
        unet_files(tmp_path / "parts")


def test_what_is_no_unet_of_this_base_is_told_in_one_line(
    model: TextToImage, tmp_path: Path
) -> None:
    values = tuned(model, 0.5)
    part = written({"conv_in.bias": values["conv_in.bias"]}, tmp_path / "part.safetensors")
    with pytest.raises(UsageError, match="parameters are missing"):
        vector_between(model, part, None)
    values["conv_in.weight"] = values["conv_in.weight"][:, :2]
    with pytest.raises(UsageError, match=r"the shape \(.*\), the base has"):
        vector_between(model, written(values, tmp_path / "other.safetensors"), None)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="not a readable safetensors file"):
        vector_between(model, tmp_path / "broken.safetensors", None)
    with pytest.raises(UsageError, match="tvc-bench convert"):
        unet_files(tmp_path / "nothing")


def test_the_content_of_the_files_is_in_the_digest(model: TextToImage, tmp_path: Path) -> None:
    one = written(tuned(model, 0.5), tmp_path / "with.safetensors")
    spec = TaskVectorErasure.model_validate({"with": str(one), "alpha": 1.0})
    before = spec.identity()["files"]
    written(tuned(model, 0.75), one)
    assert spec.identity()["files"] != before
    read = Erasure.from_identity(spec.identity())
    assert isinstance(read, TaskVectorErasure)
    assert read.with_unet == str(one)
