"""Writes mutated checkpoints: sound files of the kinds that people hold, with one to three faults.

Random bytes seldom pass the first check, so the faults are put where a reader decides. These are
lengths, offsets, types and names of a header, metadata, settings of an adapter, values, and the file.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench.core.shipped import model_folder

__all__ = ["mutated"]

_ODD: tuple[Any, ...] = (
    None, True, "x", "", "nan", [], [1], {}, {"a": 1}, -1, 0, 0.5, 1e308, 10**400, "\u202e", "a\x1b[31m",
)  # fmt: skip
_DTYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "Q4", "", "f32")


@dataclass
class _Draft:
    """A checkpoint before it is written.

    Attributes:
        tensors: Names and values; a name may be there twice.
        metadata: Of the header; None: no entry.
        settings: Of ``adapter_config.json``; None: no such file.
        header: Changes the entries of the header.
        raw: Change the bytes of the file.
        finish: Changes the file once it is written.
    """

    tensors: list[tuple[str, np.ndarray[Any, Any]]]
    metadata: Any = None
    settings: Any = None
    header: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    raw: list[Callable[[bytes], bytes]] = field(default_factory=list)
    finish: list[Callable[[Path], None]] = field(default_factory=list)


def mutated(draw: random.Random, folder: Path) -> Path:
    """Writes one checkpoint with up to three faults.

    Args:
        draw: Decides everything.
        folder: An empty folder, or one to be made.

    Returns:
        What to give as ``path``: a file or a folder. One in some eight has no fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = draw.choice(_SOUND)(draw)
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        draw.choice(_FAULTS)(draw, draft)
    whole = draft.settings is None
    path = folder / ("edited.safetensors" if whole else "adapter_model.safetensors")
    path.write_bytes(_written(draft))
    if not whole:
        settings = draft.settings
        text = settings if isinstance(settings, bytes) else json.dumps(settings).encode()
        (folder / "adapter_config.json").write_bytes(text)
    for change in draft.finish:
        change(path)
    return path if whole or draw.random() < 0.5 else folder


@cache
def _base() -> dict[str, np.ndarray[Any, Any]]:
    """Some of the miniature's parameters: matrices, a kernel, a bias, of both networks."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for part, keep in (("unet", ("attn2.to_", "conv_in")), ("text_encoder", ("layers.0.mlp",))):
        for file in sorted((model_folder() / part).glob("*.safetensors")):
            tensors = load_file(file)
            found |= {
                f"{part}.{name}": value.astype(np.float32)
                for name, value in tensors.items()
                if any(k in name for k in keep)
            }
    return found


def _noise(draw: random.Random, *shape: int) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(draw.getrandbits(32)).standard_normal(shape) / 20).astype("f4")


def _chosen(draw: random.Random, part: str) -> list[str]:
    names = sorted(name for name in _base() if name.startswith(part))
    return draw.sample(names, draw.randint(1, min(6, len(names))))


# -- sound files ---------------------------------------------------------------------------------


def _values(draw: random.Random) -> _Draft:
    part = draw.choice(("unet", "text_encoder"))
    bare = draw.random() < 0.7
    return _Draft([
        (name.removeprefix(f"{part}.") if bare else name, _base()[name] + _noise(draw, *_base()[name].shape) / 5)
        for name in _chosen(draw, part)
    ])  # fmt: skip


def _differences(draw: random.Random) -> _Draft:
    return _Draft([(n, _noise(draw, *_base()[n].shape) / 20) for n in _chosen(draw, "unet")])


def _halves(draw: random.Random, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    out, *rest = _base()[name].shape
    rank = draw.randint(1, 3)
    return _noise(draw, rank, *rest), _noise(draw, out, rank, *[1] * (len(rest) - 1))


def _lora(draw: random.Random) -> _Draft:
    style = draw.choice(("lora_A lora_B", "lora.down lora.up", "kohya", "processor"))
    tensors = []
    for name in (
        n for n in _chosen(draw, draw.choice(("unet", "text_encoder"))) if n.endswith("t")
    ):
        module = name.removesuffix(".weight")
        down, up = _halves(draw, name)
        if style == "kohya":
            flat = module.replace("text_encoder.", "lora_te_").replace("unet.", "lora_unet_")
            flat = flat.replace(".", "_")
            names = f"{flat}.lora_down.weight", f"{flat}.lora_up.weight"
            tensors.append((f"{flat}.alpha", np.array(draw.choice((1, 4)), dtype=np.float32)))
        elif style == "processor":
            flat = module.replace(".to_", ".processor.to_")
            names = f"{flat}_lora.down.weight", f"{flat}_lora.up.weight"
        else:
            first, second = style.split()
            names = f"{module}.{first}.weight", f"{module}.{second}.weight"
        tensors += list(zip(names, (down, up), strict=True))
    about = {"unet.lora_alpha": 2, "unet.use_rslora": draw.random() < 0.5}
    return _Draft(tensors, {"lora_adapter_metadata": json.dumps(about)} if "A" in style else None)


def _peft(draw: random.Random) -> _Draft:
    draft = _lora(draw)
    draft.metadata = {"format": "pt"}
    draft.settings = {
        **{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "use_dora": False},
        **{"alpha_pattern": {"attn2.to_k": 1}, "rank_pattern": {}, "bias": "none"},
    }
    return draft


_SOUND = (_values, _values, _differences, _lora, _lora, _peft)


# -- faults --------------------------------------------------------------------------------------


def _place(draw: random.Random, draft: _Draft) -> int | None:
    return draw.randrange(len(draft.tensors)) if draft.tensors else None


def _tensor(draw: random.Random, draft: _Draft) -> None:
    """A value, a shape or a type."""
    if (i := _place(draw, draft)) is None:
        return
    name, value = draft.tensors[i]
    odd = value.astype("f4", copy=True)
    if odd.size:
        odd.flat[draw.randrange(odd.size)] = draw.choice((np.nan, np.inf, -np.inf, 3e38))
    changes: tuple[Callable[[], np.ndarray[Any, Any]], ...] = (
        lambda: odd, lambda: value.T, lambda: np.atleast_1d(value)[:0], lambda: value.reshape(-1),
        lambda: value[..., None],
        lambda: value.astype(draw.choice(("i8", "u1", "f2", "f8", "?"))), lambda: value * 0,
        lambda: np.atleast_1d(value)[:1], lambda: value * np.float32(1e30), lambda: np.zeros((), "f4"),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        draft.tensors[i] = name, draw.choice(changes)()


def _name(draw: random.Random, draft: _Draft) -> None:
    if (i := _place(draw, draft)) is None:
        return
    name, value = draft.tensors[i]
    prefixes = (
        *("model.diffusion_model.", "lora_te2_", "lora_unet_", "transformer.", "base_model.model."),
        *("text_model.", "unet.", "text_encoder.", "", ".", "\x00", "\u202e", "=cmd|", "../"),
    )
    ends = (
        *(
            ".alpha",
            ".dora_scale",
            ".hada_w1_a",
            ".lora_mid.weight",
            ".lora_update.weight",
            ".weight",
        ),
        *(".lora_A.weight", ".bias", "position_ids", "\n", ":star:", "x" * 600),
    )
    changes = (draw.choice(prefixes) + name, name + draw.choice(ends), name[draw.randrange(9) :],
               draw.choice(("<cat>", "emb_params", "W_enc", "", "__metadata__x")))  # fmt: skip
    draft.tensors[i] = draw.choice(changes), value


def _count(draw: random.Random, draft: _Draft) -> None:
    if (i := _place(draw, draft)) is not None:
        change = draw.choice((lambda: draft.tensors.pop(i), draft.tensors.clear,
                              lambda: draft.tensors.append(draft.tensors[i])))  # fmt: skip
        change()


def _metadata(draw: random.Random, draft: _Draft) -> None:
    said = draft.metadata if isinstance(draft.metadata, dict) else {}
    about = draw.choice(
        ("lora_alpha", "unet.lora_alpha", "alpha_pattern", "use_rslora", "peft_type")
    )
    texts = (
        json.dumps({about: draw.choice(_ODD)}),
        "[1]",
        "{",
        "[" * 5000,
        '{"lora_alpha": NaN}',
        "\ud800",
    )
    draft.metadata = draw.choice((
        {**said, "lora_adapter_metadata": draw.choice(texts)}, draw.choice(_ODD),
        {**said, "prompts": "nudity", "rank": "1"}, {**said, "k": draw.choice(_ODD)},
        {**said, "base_model_id": draw.choice(("stabilityai/stable-diffusion-xl-base-1.0", "a/FLUX.1-dev"))},
        {**said, "component": draw.choice(("unet", "transformer", "text_encoder"))},
        {**said, "modelspec.architecture": draw.choice(("stable-diffusion-v1", "stable-diffusion-v2-512"))},
    ))  # fmt: skip


def _settings(draw: random.Random, draft: _Draft) -> None:
    said = draft.settings if isinstance(draft.settings, dict) else {}
    key = draw.choice(("lora_alpha", "r", "alpha_pattern", "use_rslora", "use_dora", "peft_type"))
    pattern = {draw.choice(("attn2.to_k", ".*", "", "^attn2\\.to_k$", "x")): draw.choice(_ODD)}
    raw = draw.choice((b"", b"{", b"\xff\xfe", b"[" * 5000, b"NaN", b"[]", b'{"r": 1, "r": 2}'))
    draft.settings = draw.choice(
        ({**said, key: draw.choice(_ODD)}, {**said, "alpha_pattern": pattern}, raw)
    )


def _entry(draw: random.Random, draft: _Draft) -> None:
    """One entry of the header."""
    key = draw.choice(("dtype", "shape", "data_offsets", "more"))
    ends = [draw.randrange(300), draw.choice((-1, 0, 7, 2**40, 2**64, 1.5))]
    value = draw.choice((draw.choice(_ODD), ends, [2**33, 2**33], draw.choice(_DTYPES), [1] * 70))

    def change(header: dict[str, Any]) -> None:
        if names := [n for n in header if isinstance(header[n], dict) and n != "__metadata__"]:
            name = names[draw.randrange(len(names))]
            if draw.random() < 0.2:
                header[name] = draw.choice(_ODD)
            else:
                header[name][key] = value

    draft.header.append(change)


def _bytes(draw: random.Random, draft: _Draft) -> None:
    """The bytes of the file."""
    beginnings = (
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\x03\x04",
        b"<html>",
        b"\x80\x02",
    )

    def change(data: bytes) -> bytes:
        length = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
        at = draw.randrange(max(1, min(len(data), 8 + length % 10_000)))
        nested = b'{"a":' * 3000 + b"1" + b"}" * 3000
        twice = data[8:].replace(b"{", b'{"a":1,"a":2,', 1)
        return draw.choice((
            data[: draw.randrange(len(data) + 1)], data + b"\0" * draw.randrange(1, 9), b"",
            data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :],
            struct.pack("<Q", draw.choice((0, 1, 10**8, 2**40, 2**64 - 1, min(length + 1, 2**64 - 1)))) + data[8:],
            draw.choice(beginnings) + data[9:], struct.pack("<Q", len(nested)) + nested,
            struct.pack("<Q", min(length + 13, 2**64 - 1)) + twice, bytes(64),
        ))  # fmt: skip

    draft.raw.append(change)


def _place_of_file(draw: random.Random, draft: _Draft) -> None:
    """The bytes that lie at the path."""

    def change(path: Path) -> None:
        path.unlink(missing_ok=True)
        draw.choice((lambda: os.mkfifo(path), path.mkdir, lambda: path.symlink_to("/dev/zero"),
                     lambda: path.symlink_to("nowhere"), lambda: path.symlink_to(path)))()  # fmt: skip

    if not draft.finish:
        draft.finish.append(change)


_FAULTS = (
    *(_tensor, _tensor, _name, _name, _count, _metadata, _metadata, _settings, _settings),
    *(_entry, _entry, _bytes, _bytes, _place_of_file),
)


# -- writing -------------------------------------------------------------------------------------

_NAMES = {"f4": "F32", "f2": "F16", "f8": "F64", "i8": "I64", "u1": "U8", "b1": "BOOL"}


def _written(draft: _Draft) -> bytes:
    """The bytes of the file; a name that is there twice stands twice in the header."""
    header: dict[str, Any] = {}
    if draft.metadata is not None:
        header["__metadata__"] = draft.metadata
    twice, values, place = [], b"", 0
    for name, value in draft.tensors:
        data = np.ascontiguousarray(value).tobytes()
        entry = {
            "dtype": _NAMES[value.dtype.str[1:]],
            "shape": list(value.shape),
            "data_offsets": [place, place + len(data)],
        }
        if name in header:
            twice.append(f", {json.dumps(name)}: {json.dumps(entry)}}}")
        header.setdefault(name, entry)
        values, place = values + data, place + len(data)
    for change in draft.header:
        change(header)
    text = json.dumps(header)
    for more in twice:
        text = text[:-1] + more
    head = text.encode()
    data = struct.pack("<Q", len(head)) + head + values
    for alter in draft.raw:
        data = alter(data)
    return data
