"""A file of the field becomes safetensors with diffusers' names, or one line; whatever it holds, none of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.cli.main import main
from bench.core.digest import file_sha256
from bench.core.errors import UsageError
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from methods.checkpoint import Checkpoint
from methods.released.convert import child
from methods.released.convert.compvis import diffusers_names
from methods.released.convert.convert import convert
from methods.released.convert.deltas import as_adapter
from methods.released.convert.layout import plain_names
from methods.released.convert.raw import raw
from tests.methods.releases import LAYERS, compvis

ROOT = Path(__file__).parents[2]
Saved = dict[str, Tensor]


def refusal(source: Path, **limits: int) -> str:
    """The line about a file; nothing may be left where the new one would be."""
    folder = source.parent / "out"
    folder.mkdir(exist_ok=True)
    with pytest.raises(UsageError) as caught:
        convert(str(source), str(folder / "made.safetensors"), **limits)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())
    return str(caught.value)


# -- nothing of a file runs ----------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.sprung),)


def by_torch(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("write", [by_torch, lambda value: pickle.dumps(value, 2)])
def test_a_pickle_that_would_make_a_file_makes_none(
    tmp_path: Path, write: Callable[[object], bytes]
) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "evil.pt"
    path.write_bytes(write({"x": Trap(sprung), "conv_in.weight": torch.zeros(2)}))
    assert "it names 'posix.mkdir', and to read that is to run code" in refusal(path)
    assert not sprung.exists()
    if write is not by_torch:  # the trap does work: what was refused is a danger
        pickle.loads(pickle.dumps(Trap(sprung)))
        assert sprung.exists()


@pytest.mark.slow
def test_a_whole_module_is_refused_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "unet.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), path)
    told = refusal(path)
    assert "a whole module, of the class torch.nn.modules" in told
    assert "save the state_dict() of its unet" in told


def test_nothing_is_unpickled_anywhere_else() -> None:
    words = re.compile(
        r"torch\.load\(|\bunpickl\w*\(|import pickle|pickle\.load|weights_only=False"
    )
    code = (
        p for room in ("bench", "methods", "attacks", "tvc") for p in (ROOT / room).rglob("*.py")
    )
    found = {p.relative_to(ROOT).as_posix() for p in code if words.search(p.read_text())}
    assert found == {"methods/released/convert/child.py"}
    calls = re.findall(r"torch\.load\([^)]*\)", (ROOT / found.pop()).read_text())
    assert len(calls) == 2
    assert all("weights_only=True" in call for call in calls)


CONFINED = """
import os, socket, sys
from methods.released.convert import child
child.confine(2**28, 60)
tried = {
    "file": lambda: open(sys.argv[1], "rb"), "new file": lambda: open(sys.argv[1] + ".new", "wb"),
    "connection": lambda: socket.socket(), "pair": lambda: socket.socketpair(),
    "memory": lambda: bytearray(2**30),
}
for name, work in tried.items():
    try:
        work()
        print("could:", name)
    except (OSError, MemoryError) as error:
        print("could not:", name)
print("shell:", os.system("echo > " + sys.argv[1] + ".shell") != 0)
"""


@pytest.mark.slow
def test_the_child_can_open_nothing_once_it_is_confined(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    names = ("file", "new file", "connection", "pair", "memory")
    assert done.stdout.splitlines() == [*(f"could not: {n}" for n in names), "shell: True"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_small_file_that_unpacks_into_a_large_one_is_refused(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"conv_in.weight": torch.zeros(2**26)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < 2**20
    assert "it needs more memory than a file of its size should" in refusal(packed, memory=2**26)


@pytest.mark.slow
def test_a_tensor_of_more_values_than_are_stored_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.pt"
    torch.save({"conv_in.weight": torch.zeros(1).expand(10**6, 10**6)}, path)
    assert "it needs more memory than a file of its size should" in refusal(path)


def test_a_file_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.pt"
    torch.save({"conv_in.weight": torch.zeros(2)}, path)
    assert "got" in refusal(path, seconds=0)  # to import torch alone takes longer


def test_only_files_of_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("weights")
    assert "expected a file that ends with .safetensors, .bin" in refusal(tmp_path / "a.txt")
    assert "which is not there" in refusal(tmp_path / "b.pt")
    os.mkfifo(tmp_path / "c.pt")
    assert "got a FIFO" in refusal(tmp_path / "c.pt")
    (tmp_path / "empty").mkdir()
    assert "expected weights in" in refusal(tmp_path / "empty")


# -- what the child takes ------------------------------------------------------------------------


def test_the_child_takes_tensors_of_real_numbers_and_tells_the_rest() -> None:
    value = {
        "state_dict": OrderedDict(w=torch.nn.Parameter(torch.ones(3, 2)), i=torch.arange(3)),
        "epoch": 3, "sparse": torch.zeros(3).to_sparse(), "optimizer": [torch.zeros(2)], 7: torch.ones(1),
    }  # fmt: skip
    found, left = child.tensors_in(value)
    assert [path for path, _ in found] == [["state_dict", "w"], ["7"]]
    assert not any(tensor.requires_grad for _, tensor in found)
    assert left == ["state_dict.i (int64)", "epoch (int)", "sparse (float32)", "optimizer (list)"]
    ring: dict[str, object] = {}
    ring["a"] = ring
    for bad, said in (
        (ring, "nest more than 6 deep"),
        ({"x" * 501: torch.zeros(1)}, "501 characters"),
        (dict.fromkeys(map(str, range(20_001)), torch.zeros(1)), "more than the 20000 tensors"),
        (torch.zeros(2), "holds one Tensor"),
    ):
        with pytest.raises(ValueError, match=said):
            child.tensors_in(bad)


def test_the_child_says_why_in_words_that_the_parent_knows(tmp_path: Path) -> None:
    blocked = pickle.UnpicklingError("Unsupported global: GLOBAL a.b.C was not an allowed global")
    for error, said in (
        (blocked, "class a.b.C"),
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "memory"),
        (OSError(28, "No space left on device"), "place No space left on device"),
        (ValueError("it nests"), "why it nests"),
        (KeyError("x"), "unreadable KeyError"),
    ):
        assert child.reason(error) == said


def test_the_child_writes_what_safetensors_reads(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    tensors = [torch.randn(3, 5).to(kind) for kind in kinds]
    tensors += [torch.tensor(2.5), torch.zeros(0, 3), torch.randn(4, 3).T, torch.ones(1).expand(4)]
    with (tmp_path / "a.safetensors").open("xb") as file:
        child.write(file, tensors)
    back = load_file(tmp_path / "a.safetensors")
    assert list(back) == [str(i) for i in range(len(tensors))]
    for name, tensor in zip(back, tensors, strict=True):
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


# -- names ---------------------------------------------------------------------------------------

LAYOUTS: Mapping[str, tuple[list[str], list[str], str, str]] = {
    # keys that lead to each tensor; names; what was opened and stripped; what was left out
    "plain": (["a.b", "c"], ["a.b", "c"], "", ""),
    "state dict": (["state_dict/a", "state_dict/b"], ["a", "b"], "state_dict", ""),
    "beside": (["params/a", "optimizer/a", "step"], ["a"], "params", "2 tensors of optimizer, step"),
    "twice": (["model/state_dict/module.a"], ["a"], "model state_dict module.", ""),
    "both networks": (["unet/a", "text_encoder/b"], ["unet.a", "text_encoder.b"], "text_encoder unet", ""),
    "delta": (["unet/a", "modifier_token/<x>"], ["unet.a"], "unet", "1 tensors of modifier_token"),
    "parallel": (["module.a", "module.b"], ["a", "b"], "module.", ""),
    "compiled": (["unet/_orig_mod.module.a"], ["unet.a"], "unet _orig_mod. module.", ""),
    "one module": (["module.a", "b"], ["module.a", "b"], "", ""),
    "averages alone": (["ema_model.a", "ema_model.b"], ["a", "b"], "ema_model.", ""),
    "averages beside": (["a", "model_ema.a"], ["a"], "", "1 averages (model_ema.)"),
    "averages below": (["params_ema/a"], ["a"], "params_ema", ""),
    "two of them": (["params/a", "params_ema/a"], ["a"], "params", "1 tensors of params_ema"),
    "layers": (["down.0/w", "down.0/b"], ["down.0.w", "down.0.b"], "", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", LAYOUTS)
def test_wrappers_copies_and_prefixes_come_off(what: str) -> None:
    paths, names, done, left = LAYOUTS[what]
    told = plain_names({str(i): tuple(p.split("/")) for i, p in enumerate(paths)}, "a.pt")
    assert list(told.old) == names
    assert " ".join([*told.flattened, *told.stripped]) == done
    assert "; ".join(told.left_out) == left


def test_two_tensors_of_one_name_are_refused() -> None:
    for paths in (
        {"0": ("a.b",), "1": ("a", "b")},
        {"0": ("module.a",), "1": ("module.module.a",)},
    ):
        if "module" in paths["0"][0]:
            assert list(plain_names(paths, "a.pt").old) == ["a", "module.a"]
            continue
        with pytest.raises(UsageError, match=r"expected each name once, got a\.b twice in a\.pt"):
            plain_names(paths, "a.pt")
    with pytest.raises(UsageError, match=r"got no tensor of real numbers in a\.pt"):
        plain_names({}, "a.pt")
    for name in ("a\n", "\ud800", "\u202ea", "a\0"):
        with pytest.raises(UsageError, match=r"expected names in plain text, got '.*' in a\.pt"):
            plain_names({"0": ("state_dict", name)}, "a.pt")


def test_the_names_of_the_original_become_those_of_the_base(model: TextToImage) -> None:
    own = model.backbone.parameters
    old = compvis(own)
    new, lost = diffusers_names({name: name for name in old}, None, "a.ckpt")
    assert not lost
    for (full, value), name in zip(own.items(), old, strict=True):
        (found,) = (n for n, o in new.items() if o == name)
        assert found.replace("text_model.", "") == full.replace("text_model.", "")
        assert torch.equal(old[new[found]], value)
    # A part of it, in whichever way it is cut out of the model: the converter counts blocks.
    for start in ("model.diffusion_model.", "diffusion_model.", ""):
        few = {n: n for n in own if "attn2.to_v" in n}
        old = compvis({full: own[full] for full in few})
        cut = {
            name.replace("model.diffusion_model.", start): full
            for full, name in zip(few, old, strict=True)
        }
        new, lost = diffusers_names(cut, LAYERS, "a.ckpt")
        assert new == few
        assert not lost


def test_what_the_converter_does_not_know_is_named(model: TextToImage) -> None:
    old = {name: name for name in compvis(model.backbone.parameters)}
    told = diffusers_names(
        {**old, "betas": "betas", "first_stage_model.a.b": "vae"}, None, "a.ckpt"
    )
    assert told[1] == ["betas", "first_stage_model.a.b"]
    for name, said in (
        ("model.diffusion_model.label_emb.0.0.weight", "got 1 others in a.ckpt"),
        ("cond_stage_model.model.ln_final.weight", "got that of 2.x in a.ckpt"),
    ):
        with pytest.raises(UsageError, match=said):
            diffusers_names({**old, name: name}, None, "a.ckpt")


def test_a_compressed_delta_becomes_an_adapter() -> None:
    names = {f"unet.a.to_k.weight.{half}": half for half in "uv"}
    made, count = as_adapter(names, "a.bin")
    assert made == {"unet.a.to_k.lora.up.weight": "u", "unet.a.to_k.lora.down.weight": "v"}
    assert count == 1
    assert as_adapter({"a.weight": "0"}, "a.bin") == ({"a.weight": "0"}, 0)
    with pytest.raises(UsageError, match="expected u and v of every matrix"):
        as_adapter({**names, "unet.b.weight": "w"}, "a.bin")


# -- what is written -----------------------------------------------------------------------------


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs the command; returns its exit code and its words."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(["convert", *map(str, words)])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    yield run


@pytest.mark.slow
def test_the_command_says_what_it_did(
    model: TextToImage, tmp_path: Path, told: Callable[..., tuple[int, str]]
) -> None:
    own = {n: w.clone() for n, w in model.backbone.parameters.items() if n.startswith("unet.")}
    own["unet.conv_in.bias"] += 1
    source, target = tmp_path / "esd.ckpt", tmp_path / "esd.safetensors"
    averages = {f"model_ema.{i}": torch.zeros(1) for i in range(3)}
    torch.save({"state_dict": compvis(own) | averages, "epoch": 3}, source)
    code, said = told(source, target, "--base", "miniature")
    back = load_file(target)
    assert code == 0
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], value) for name, value in own.items())
    for line in (
        f"read       {source}",
        "flattened  state_dict",
        f"renamed    {len(own)} names of the original Stable Diffusion to diffusers'",
        "left out   epoch (int); 3 averages (model_ema.)",
        f"wrote      {target}: {len(own)} tensors, ",
        f"sha256     {file_sha256(target)}",
        f"{target} holds {len(own)} of {len(own)} of the unet, and changes:",
        "  convolutions ",
    ):
        assert line in said
    assert target.stat().st_mode & 0o777 == source.stat().st_mode & 0o777  # as any new file
    assert sorted(p.name for p in tmp_path.iterdir()) == ["esd.ckpt", "esd.safetensors"]
    before = target.read_bytes()
    code, said = told(source, target)
    assert (code, target.read_bytes()) == (2, before)
    assert f"expected a new file, got {target}, which is there" in said


def test_safetensors_are_given_other_names_and_keep_their_metadata(
    model: TextToImage, tmp_path: Path, told: Callable[..., tuple[int, str]]
) -> None:
    own = {n: w.clone() for n, w in model.backbone.parameters.items() if "attn2.to_v" in n}
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    own[next(iter(own))] *= 2
    save_file(compvis(own), source, metadata={"base_model_id": "someone/else"})
    code, said = told(source, target, "--base", "miniature", "--json")
    about = json.loads(said)
    assert code == 0
    assert about["tensors"] == len(own)
    assert about["sha256"] == file_sha256(target)
    assert [row["changed"] for row in about["changes"]] == [1]
    assert load_file(target).keys() == own.keys()
    header = json.loads(target.read_bytes()[8:].split(b"}", 1)[0] + b"}}")
    assert header["__metadata__"]["base_model_id"] == "someone/else"


def test_what_no_checkpoint_could_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "dora.safetensors"
    save_file({"a.dora_scale": torch.zeros(1, 2)}, path)
    assert "got a DoRA" in refusal(path)
    save_file({"conv_in.weight": torch.full((2,), torch.nan)}, path)
    told = refusal(path)
    assert "expected finite numbers" in told
    assert str(path) in told  # and not the file that was made of it
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match="expected a name that ends with"):
        convert(str(path), str(tmp_path / "a.pt"))
    with pytest.raises(UsageError, match="expected a folder to write to"):
        convert(str(path), str(tmp_path / "nowhere" / "a.safetensors"))


def test_what_the_raw_reader_is_given_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a.b": torch.zeros(2)}, path)
    found = raw(path, tmp_path)
    assert (found.file, found.paths) == (path, {"a.b": ("a.b",)})


def test_the_settings_of_an_adapter_go_with_it(model: TextToImage, tmp_path: Path) -> None:
    name = next(n for n in model.backbone.parameters if n.endswith("attn2.to_v.weight"))
    own = model.parameter(name)
    module = name.removeprefix("unet.").removesuffix(".weight")
    halves = {"lora_A": torch.ones(2, own.shape[1]), "lora_B": torch.ones(len(own), 2)}
    folder = tmp_path / "peft"
    folder.mkdir()
    tensors = {f"base_model.model.{module}.{half}.weight": w for half, w in halves.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8}))
    target = tmp_path / "made.safetensors"
    convert(str(folder), str(target))
    for path in (folder, target):
        edited = Checkpoint(path=str(path))(model, [Concept(text="star")], rng=Rng(("c",)))
        torch.testing.assert_close(edited.parameter(name), own + 8.0)
    (folder / "adapter_config.json").write_text('{"use_dora": true}')
    assert "got a DoRA (by its settings)" in refusal(folder)
