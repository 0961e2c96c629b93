"""The digest of a base, what is downloaded of it and what is loaded are the same files, and no others beside them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.core.shipped import model_folder
from bench.model.backbone import load_backbone, load_inspected
from bench.model.pipeline.inspect import inspect_base
from bench.model.text_to_image import TextToImage
from tests.bench.model.test_base_files import Change, changed, of_words_and_merges, sharded
from tests.fuzz.bases import WEIGHTS, Raw, linked_base, put

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return linked_base(tmp_path / "base")


def unchanged(folder: Path) -> None:
    pass


def in_half_precision(folder: Path) -> None:
    for name in WEIGHTS:
        path = folder / name
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))


def in_half_precision_shards(folder: Path) -> None:
    sharded(UNET, ".fp16")(folder)


def in_shards(folder: Path) -> None:
    sharded("text_encoder/model")(folder)
    sharded(UNET)(folder)


def crowded(folder: Path) -> None:
    """As published: each network many times over, and parts that this suite does not use."""
    for name in WEIGHTS:
        path = folder / name
        bare = path.with_name(path.name.removesuffix(".safetensors").removesuffix(".fp16"))
        plain = path if path.is_symlink() else None
        for ending in ("non_ema.safetensors", "bf16.safetensors", "bin", "fp16.bin", "msgpack"):
            bare.with_name(f"{bare.name}.{ending}").write_bytes(b"no weights at all")
        if plain is not None:  # else one precision is all that there is
            bare.with_name(f"{bare.name}.fp16.safetensors").write_bytes(b"damaged")
        (path.parent / "pytorch_model.bin").write_bytes(b"a pickle")
        (path.parent / "openvino_model.xml").write_text("<xml/>")
        (path.parent / "generation_config.json").write_text("{}")
        (path.parent / "adapter_config.json").write_text('{"base_model_name_or_path": "none"}')
        (path.parent / "README.md").write_text("# A network")
    os.mkfifo(folder / "unet" / "pipe.safetensors")
    for part in ("safety_checker", "feature_extractor", "vae_1_0", "unet_ema"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
        (folder / part / "model.safetensors").write_bytes(b"no weights")
    if (folder / "tokenizer" / "tokenizer.json").exists():
        (folder / "tokenizer" / "vocab.json").write_text('{"another": 0}')
        (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ x }}")
    (folder / "scheduler" / "old_config.json").write_text("{}")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"no weights")
    (folder / "README.md").write_text("# A model")


FORMS: list[Change] = [
    unchanged, in_half_precision, in_half_precision_shards, in_shards, of_words_and_merges,
]  # fmt: skip
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@forms
def test_what_lies_beside_changes_nothing(
    form: Change, folder: Path, model: TextToImage, fingerprint: Callable[[TextToImage], str]
) -> None:
    form(folder)
    alone = inspect_base(str(folder))
    crowded(folder)
    files = inspect_base(str(folder))
    assert files == alone
    loaded = TextToImage(load_inspected(files))
    assert fingerprint(loaded) == fingerprint(model)
    prompts = ["a red star in a meadow", "zorbo, as a sketch"]
    assert loaded.tokenize(prompts).equal(model.tokenize(prompts))


@forms
def test_the_files_that_are_used_are_enough(form: Change, folder: Path, tmp_path: Path) -> None:
    form(folder)
    crowded(folder)
    files = inspect_base(str(folder))
    other = tmp_path / "other"
    for path in (folder / "model_index.json", *files.files):
        (other / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, other / path.relative_to(folder))
    assert load_backbone(str(other)).digest == files.digest


def altered(path: Path) -> None:
    """The same content in other bytes: what is hashed is the file."""
    if path.suffix == ".txt":  # an empty line is no merge
        return put(path, b"#version: altered\n" + path.read_bytes())
    if path.suffix != ".safetensors":
        return put(path, path.read_bytes() + b"\n")
    raw = Raw.read(path)
    return put(path, Raw({**raw.header, "__metadata__": {"altered": "yes"}}, raw.data).whole)


@forms
def test_each_file_that_is_used_is_in_the_digest(form: Change, folder: Path) -> None:
    form(folder)
    crowded(folder)
    before = inspect_base(str(folder))
    digests = {before.digest}
    for path in before.files:
        altered(path)
        digests.add(inspect_base(str(folder)).digest)
    assert len(digests) == len(before.files) + 1 > 9


def test_what_a_scheduler_leaves_out_is_in_the_digest(folder: Path) -> None:
    """Its class fills that in, and the index may name another than the file."""
    before = inspect_base(str(folder)).digest
    changed("model_index.json", scheduler=["diffusers", "HeunDiscreteScheduler"])(folder)
    assert inspect_base(str(folder)).digest != before
    changed(
        "model_index.json", _diffusers_version="0.1.0", scheduler=["diffusers", "DDIMScheduler"]
    )(folder)
    assert inspect_base(str(folder)).digest == before


def test_a_file_goes_before_shards(folder: Path) -> None:
    before = inspect_base(str(folder)).digest
    sharded(UNET)(folder)
    assert inspect_base(str(folder)).digest != before
    (folder / WEIGHTS[2]).symlink_to(model_folder() / WEIGHTS[2])
    assert inspect_base(str(folder)).digest == before


# --- from the hub

COMMIT = "a" * 40
CLIENT = f"""
import sys
from bench.model.pipeline.inspect import inspect_base
files = inspect_base("somebody/model", commit="{COMMIT}")
print(files.digest)
"""


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub with one repository, and the names of the files that were fetched from it."""
    fetched: list[str] = []

    class Repository(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            data = self.answer()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self) -> bytes:
            path, _, name = self.path.partition(f"/resolve/{COMMIT}/")
            if name:
                data = (folder / name).read_bytes()
                fetched.extend([name] * (self.command == "GET"))
            elif f"/tree/{COMMIT}" in path:
                files = [p for p in folder.rglob("*") if p.is_file()]
                data = json.dumps(
                    [
                        {"type": "file", "path": p.relative_to(folder).as_posix(), "oid": "0" * 40,
                         "size": p.stat().st_size}
                        for p in files
                    ]
                ).encode()  # fmt: skip
            else:
                data = b"{}"
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            return data

    server = ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def inspected(address: str, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Inspects a base of the hub in a process of its own: the client reads its settings when it is imported."""
    told = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", CLIENT], env={**told, **more}, capture_output=True, text=True
    )


@pytest.mark.enable_socket  # of this machine alone: the hub is a thread of the test
@forms
def test_only_what_is_used_is_downloaded(form: Change, folder: Path, tmp_path: Path) -> None:
    form(folder)
    crowded(folder)
    used = inspect_base(str(folder))
    names = {path.relative_to(folder).as_posix() for path in used.files} | {"model_index.json"}
    (folder / "unet" / "pipe.safetensors").unlink()  # no repository has one
    with hub(folder) as (address, fetched):
        first = inspected(address, tmp_path / "cache")
    assert first.stdout.strip() == used.digest, first.stderr
    assert sorted(fetched) == sorted(names)
    # What is there once needs no hub.
    later = inspected("http://127.0.0.1:9", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert later.stdout.strip() == used.digest, later.stderr


@pytest.mark.enable_socket  # of this machine alone: the hub is a thread of the test
def test_what_no_family_handles_is_not_downloaded(folder: Path, tmp_path: Path) -> None:
    changed("model_index.json", _class_name="FluxPipeline")(folder)
    with hub(folder) as (address, fetched):
        done = inspected(address, tmp_path / "cache")
    assert fetched == ["model_index.json"]
    last = done.stderr.splitlines()[-1]
    assert "base 'somebody/model': " in last
    assert "expected StableDiffusionPipeline" in last
