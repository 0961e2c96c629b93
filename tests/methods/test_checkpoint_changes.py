"""The changes of a checkpoint to its base, by part and in per cent; what the plan and the record say of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.cli.main import main
from bench.config.suite import load_suite
from bench.core.meter import Meter
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from bench.run.plan import make_plan
from methods.checkpoint import Checkpoint
from methods.released.base import Base
from methods.released.changes import Changes, part_of

KEYS = "cross-attention keys and values"


def uce(model: TextToImage, path: Path, about: dict[str, str] | None = None) -> Path:
    """Half as much again of each key, values as they are."""
    own = {n: w for n, w in model.backbone.parameters.items() if "attn2.to_" in n}
    kept = {n: w for n, w in own.items() if n.endswith(("to_k.weight", "to_v.weight"))}
    new = {n: w * (1.5 if ".to_k." in n else 1) for n, w in kept.items()}
    save_file({n.removeprefix("unet."): w.contiguous() for n, w in new.items()}, path, about)
    return path


def test_every_parameter_is_of_one_part(model: TextToImage) -> None:
    parts = {name: part_of(name) for name in model.backbone.parameters}
    assert "others" not in parts.values()
    assert all(
        p.startswith("text encoder") == n.startswith("text_encoder") for n, p in parts.items()
    )
    assert len(set(parts.values())) >= 10


def test_a_part_is_compared_with_all_of_the_bases_there(model: TextToImage) -> None:
    base = Base.of_model(model)
    names = [n for n in base.shapes if part_of(n) == KEYS]
    changes = Changes()
    for name in names[:2]:
        changes.saw(name, base.value(name), base.value(name) * 1.5)
    changes.saw(names[2], base.value(names[2]), None)
    (row,) = changes.of(base)
    squares = [float(base.value(n).double().square().sum()) for n in names]
    assert (row.part, row.changed, row.total) == (KEYS, 2, len(names))
    assert row.per_cent == pytest.approx(50 * (sum(squares[:2]) / sum(squares)) ** 0.5)


def test_the_record_says_what_a_file_holds_and_changes(model: TextToImage, tmp_path: Path) -> None:
    path = uce(model, tmp_path / "uce.safetensors")
    meter = Meter()
    Checkpoint(path=str(path))(model.with_meter(meter), [Concept(text="star")], rng=Rng(("c",)))
    keys = [n for n in model.backbone.parameters if n.endswith("attn2.to_k.weight")]
    whole = sum(n.startswith("unet.") for n in model.backbone.parameters)
    assert meter.notes["holds"] == f"{2 * len(keys)} of {whole} of the unet"
    assert str(meter.notes["changed"]).startswith(f"{KEYS} ")
    assert str(meter.notes["changed"]).endswith(f" % ({len(keys)} of {2 * len(keys)})")


@pytest.fixture
def suite(tmp_path: Path) -> Callable[[Path], Path]:
    """Writes a suite with a checkpoint."""

    def write(path: Path) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_text(
            "name: mine\nbase: miniature\nconcepts: [star]\nattacks: [prompts, random_tokens, seed_search]\n"
            "judges: [mini_judge]\nsurrogate: clip_zero_shot\nmetrics: [drift]\ngoals: 2\nseeds: 2\n"
            f"methods: [none, destroyed, {{checkpoint: {{path: {path}}}}}]\n"
        )
        return file

    return write


def test_the_plan_says_what_a_part_holds_and_warns_of_another_base(
    model: TextToImage, tmp_path: Path, suite: Callable[[Path], Path]
) -> None:
    path = uce(
        model, tmp_path / "a.safetensors", {"base_model_id": "CompVis/stable-diffusion-v1-4"}
    )
    made = make_plan(load_suite(str(suite(path))), "0" * 64, folder=model_folder())
    other, part = made.warnings[-2:]
    assert (
        "says that it was made from 'CompVis/stable-diffusion-v1-4', and the base lies in" in other
    )
    assert part.startswith(f"checkpoint: {path} holds 14 of 326 of the unet")
    # A folder that bears the name is taken for the one that is meant.
    spec = Checkpoint(path=str(path))
    named = tmp_path / "models--CompVis--stable-diffusion-v1-4" / "snapshots" / "1"
    named.parent.mkdir(parents=True)
    named.symlink_to(model_folder())
    assert len(spec.remarks(named)) == 1


def test_compare_prints_the_parts(
    model: TextToImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = uce(model, tmp_path / "a.safetensors")
    for words in (["compare", str(path)], ["compare", str(path), "--base", "miniature", "--json"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not end.value.code
        said = capsys.readouterr().out
        if "--json" not in words:
            assert f"{path} holds 14 of 326 of the unet, and changes:" in said
            assert f"\n  {KEYS:32} " in said
            continue
        about = json.loads(said)
        (row,) = about["changes"]
        assert (row["part"], row["changed"], row["total"]) == (KEYS, 7, 14)
        assert 0 < row["per_cent"] < 50
    base = {"conv_in.bias": model.parameter("unet.conv_in.bias").contiguous()}
    save_file(base, path)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(path)])
    assert "nothing: it is the base itself" in capsys.readouterr().out
    save_file({"conv_in.weight": torch.zeros(3)}, path)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(path)])
    assert end.value.code == 2


def test_what_is_compared_of_an_adapter_with_a_gate_is_its_tensors(
    model: TextToImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, flat = tmp_path / "spm.safetensors", "lora_unet_mid_block_attentions_0_proj_in"
    own = model.parameter("unet.mid_block.attentions.0.proj_in.weight").shape
    halves = {"down": torch.ones(1, own[1], 1, 1), "up": torch.ones(own[0], 1, 1, 1)}
    save_file({f"{flat}.lora_{n}.weight": w for n, w in halves.items()}, path, {"prompts": "x"})
    with pytest.raises(SystemExit):
        main(["compare", str(path)])
    said = capsys.readouterr().out
    assert "gated_adapters of 2 tensors, for the forward pass" in said
    assert "no parameter" in said
