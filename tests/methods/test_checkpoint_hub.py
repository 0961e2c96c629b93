"""A checkpoint in the hub: what is a place there, what is read from its cache, what is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from bench.cli.main import main
from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng, registry
from bench.model.text_to_image import TextToImage
from methods.checkpoint import Checkpoint
from methods.released.hub import fetched
from tests.bench.model.test_used_files import COMMIT, hub

ROOT = Path(__file__).parents[2]
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
PLACE: dict[str, object] = {"hub": "somebody/model", "revision": COMMIT}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a repository in a cache as the hub's client lays it out; the client is offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetched.cache_clear()
    home = tmp_path / "cache" / "models--somebody--model"
    folder = home / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return folder


def put(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Saves a file as the cache holds it: a link to a blob."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blob = path.with_name(f"{path.name}.blob")
    save_file({n: w.contiguous() for n, w in tensors.items()}, blob)
    path.symlink_to(blob)
    return path


def built(**fields: object) -> Checkpoint:
    spec = registry.build("method", {"checkpoint": fields})
    assert isinstance(spec, Checkpoint)
    return spec


def erased(spec: Checkpoint, model: TextToImage) -> TextToImage:
    spec.check_base(model_folder())
    return spec(model, [Concept(text="star")], rng=Rng(("hub",)))


@pytest.mark.parametrize("below", ["", "star/one"])
def test_what_the_cache_holds_is_read_without_a_network(
    model: TextToImage, repository: Path, tmp_path: Path, below: str
) -> None:
    own = model.parameter(f"unet.{KEY}")
    path = put(repository / below / "edit.safetensors", {KEY: own + 1})
    spec = built(**PLACE, subfolder=below)
    name = f"somebody/model/{below}".rstrip("/")
    assert spec.label == f"checkpoint({name}, {spec.sha256[:8]})"
    assert spec.digest == built(path=str(path.parent)).digest  # its identity is the content
    assert torch.equal(erased(spec, model).parameter(f"unet.{KEY}"), own + 1)
    assert Checkpoint.model_validate_json(spec.model_dump_json()) == spec
    (line,) = spec.remarks(model_folder())
    assert "holds 1 of 326 of the unet" in line


def test_a_pipeline_and_its_networks_are_read(model: TextToImage, repository: Path) -> None:
    own = model.backbone.parameters
    for part in ("unet", "text_encoder"):
        mine = {n.partition(".")[2]: w + 1 for n, w in own.items() if n.startswith(f"{part}.")}
        stem = "diffusion_pytorch_model" if part == "unet" else "model"
        put(repository / part / f"{stem}.safetensors", mine)
        (repository / part / "config.json").write_text("{}")
    assert erased(built(**PLACE), model).weights.keys() == own.keys()
    only = erased(built(**PLACE, subfolder="unet"), model)
    assert {name.partition(".")[0] for name in only.weights} == {"unet"}
    (repository / "text_encoder" / "model.safetensors").unlink()
    fetched.cache_clear()
    with pytest.raises(UsageError, match=r"expected safetensors in .*text_encoder, got none"):
        built(**PLACE)


PLACES: Mapping[str, tuple[dict[str, object], str]] = {
    "no commit": ({"hub": "a/b"}, "expected the commit of a/b as revision"),
    "a branch": ({"hub": "a/b", "revision": "main"}, "expected the commit of a/b as revision"),
    "a number": ({"hub": "a/b", "revision": 7}, "expected the commit of a/b as revision"),
    "no owner": ({"hub": "b", "revision": COMMIT}, "expected owner/name as hub"),
    "a path": ({"hub": "../b", "revision": COMMIT}, "expected owner/name as hub"),
    "dots": ({"hub": "a/..", "revision": COMMIT}, "expected owner/name as hub"),
    "no hub": ({"subfolder": "a"}, "expected owner/name as hub"),
    "above": ({**PLACE, "subfolder": "../a"}, "expected a folder of somebody/model"),
    "above below": ({**PLACE, "subfolder": "a/../../b"}, "expected a folder of somebody/model"),
    "absolute": ({**PLACE, "subfolder": "/etc"}, "expected a folder of somebody/model"),
    "a pattern": ({**PLACE, "subfolder": "*"}, "expected a folder of somebody/model"),
    "both": ({**PLACE, "path": "a.safetensors"}, "expected path or hub, got both"),
    "nothing there": ({**PLACE, "subfolder": "nowhere"}, "somebody/model: expected safetensors at the top of nowhere/"),
    "a pickle": (PLACE, "fetch it (`hf download somebody/model --revision"),
    "not cached": ({"hub": "a/b", "revision": COMMIT}, "a/b: could not be downloaded: "),
}  # fmt: skip


@pytest.mark.parametrize("what", PLACES)
def test_what_is_no_place_in_the_hub_is_refused_in_one_line(repository: Path, what: str) -> None:
    fields, said = PLACES[what]
    with pytest.raises(UsageError) as caught:
        built(**fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compare_takes_a_place_in_the_hub(
    model: TextToImage, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(repository / "star" / "edit.safetensors", {KEY: model.parameter(f"unet.{KEY}") + 1})
    for place, code, said in (
        (f"somebody/model@{COMMIT}/star", 0, "holds 1 of 326 of the unet"),
        (f"somebody/else@{COMMIT}", 2, "somebody/else: could not be downloaded"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["compare", place])
        told = capsys.readouterr()
        assert (end.value.code or 0) == code
        assert said in told.out + told.err


def test_a_plan_downloads_nothing_where_the_content_is_given(repository: Path) -> None:
    spec = built(hub="a/b", revision=COMMIT, sha256="0" * 64)
    spec.check_base(model_folder())
    assert spec.remarks(model_folder()) == ()


CLIENT = """
import sys
from bench.interfaces import registry
spec = registry.build("method", {"checkpoint": {"hub": "somebody/model", "revision": sys.argv[1]}})
print(spec.sha256)
"""


@pytest.mark.slow
@pytest.mark.enable_socket  # of this machine alone: the hub is a thread of the test
@pytest.mark.parametrize("pipeline", [True, False])
def test_only_what_is_read_is_downloaded(
    model: TextToImage, tmp_path: Path, pipeline: bool
) -> None:
    folder = tmp_path / "repository"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"not read")
    (folder / "edit.ckpt").write_bytes(b"a pickle")
    mine = {KEY: model.parameter(f"unet.{KEY}") + 1}
    wanted = {"model_index.json"}
    (folder / "model_index.json").write_text("{}")
    if pipeline:
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text('{"of": "unet"}')
        save_file(mine, folder / "unet" / "diffusion_pytorch_model.safetensors")
        (folder / "whole.safetensors").write_bytes(b"not read")
        wanted |= {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    else:
        save_file(mine, folder / "edit.safetensors")
        wanted |= {"edit.safetensors"}
    (folder / "edit.fp16.safetensors").write_bytes(b"not read")
    with hub(folder) as (address, asked):
        told = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, COMMIT],
            env={**told, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
    assert set(asked) == wanted, done.stderr
    if pipeline:  # the content of a folder has the names of its files in it
        assert done.stdout.strip() == built(path=str(folder)).sha256
