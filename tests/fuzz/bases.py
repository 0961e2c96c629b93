"""Base folders with something wrong: made from the miniature, for the tests and for longer runs.

``cases(rng)`` yields without end; a case is a few files and their new bytes. A longer run is

    for number, case in zip(range(1000), cases(random.Random(0))):
        case.write(linked_base(folder / str(number)))
        outcome(folder / str(number))

where ``outcome`` raises if the base is neither refused by inspection, in one clear line, nor loaded.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.model.backbone import load_inspected
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.pipeline.inspect import inspect_base
from bench.model.text_to_image import TextToImage

__all__ = ["CONFIGS", "WEIGHTS", "Case", "Raw", "cases", "linked_base", "outcome", "put"]

CONFIGS: Final = (
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "unet/config.json", "vae/config.json", "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)  # fmt: skip
WEIGHTS: Final = (
    "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
)  # fmt: skip
_LONGEST: Final = 1000  # characters of a clear line, paths included
_ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 3, 7, 64, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e308, "", "x",
    "None", "v_prediction", "é\u202e", "a" * 400, [], [None], [1, "x"], [4, 4, 4], [[[[]]]], {}, {"x": 1},
    ["diffusers", "UNet2DConditionModel"], ["None", "Mine"], ["diffusers", ["a"]], [10**9] * 3,
)  # fmt: skip
_MORE: Final = (
    "return_dict", "output_attentions", "attn_implementation", "num_labels", "to_dict", "per_layer_config",
    "_use_default_values", "_class_name", "_name_or_path", "_commit_hash", "auto_map", "vocab_file", "chat_template",
    "extra_special_tokens", "added_tokens_decoder", "init_inputs", "padding_side", "mask_token", "inv_gamma",
)  # fmt: skip
"""Keys that the miniature's files have not, and some library reads."""


@dataclass(frozen=True)
class Case:
    """Files of a base folder and their new bytes.

    Attributes:
        about: What was done, for people.
        files: By their path from the folder.
    """

    about: str
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> Path:
        """Writes the files over those of a base; returns the folder."""
        for name, data in self.files.items():
            put(folder / name, data)
        return folder


@dataclass(frozen=True)
class Raw:
    """A safetensors file in pieces.

    Attributes:
        header: By name: dtype, shape and data_offsets.
        data: What follows the header.
    """

    header: dict[str, Any]
    data: bytes

    @classmethod
    def read(cls, path: Path) -> Raw:
        """The pieces of a file."""
        whole = path.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        return cls(json.loads(whole[8 : 8 + length]), whole[8 + length :])

    def only(self, names: list[str]) -> Raw:
        """The same with some of its tensors."""
        header: dict[str, Any] = {}
        data = b""
        for name in names:
            begin, end = self.header[name]["data_offsets"]
            place = [len(data), len(data) + end - begin]
            header[name] = {**self.header[name], "data_offsets": place}
            data += self.data[begin:end]
        return Raw(header, data)

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return [name for name in self.header if name != "__metadata__"]

    @property
    def whole(self) -> bytes:
        """The bytes of the file."""
        text = json.dumps(self.header).encode()
        return len(text).to_bytes(8, "little") + text + self.data


def linked_base(folder: Path) -> Path:
    """A base like the miniature: its settings are copies, its weights are links to the shipped ones."""
    for part in StableDiffusion.classes:
        (folder / part).mkdir(parents=True)
    for name in CONFIGS:
        (folder / name).write_bytes((model_folder() / name).read_bytes())
    for name in WEIGHTS:
        (folder / name).symlink_to(model_folder() / name)
    return folder


def put(path: Path, data: bytes) -> None:
    """Writes a file in the place of what is there; a link's target stays as it is."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def outcome(folder: Path) -> str | None:
    """Why inspection refuses a base, in one line; ``None`` if it does not, and the base then loads and reads a prompt.

    Raises:
        AssertionError: the refusal is not one clear line; or inspection took the folder, and loading refuses it
            or gives another digest.
        Exception: whatever is neither.
    """
    try:
        files = inspect_base(str(folder))
    except UsageError as error:
        line = str(error)
        assert line.startswith("base ") and line.isprintable() and len(line) <= _LONGEST, line
        return line
    try:
        backbone = load_inspected(files)
    except UsageError as error:
        raise AssertionError(f"inspection took it, and loading refuses it: {error}") from error
    assert backbone.digest == files.digest
    assert files.sizes.latent_side == backbone.latent_shape[1]
    read = TextToImage(backbone).encode(["a red star", ""])
    assert read.states_BLD.shape[1:] == (files.sizes.context_length, files.sizes.context_width)
    return None


def cases(rng: random.Random) -> Iterator[Case]:
    """Endless cases, each a small change of one or two files."""
    while True:
        made = [_case(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        files = {name: data for case in made for name, data in case.files.items()}
        yield Case("; ".join(case.about for case in made), files)


def _case(rng: random.Random) -> Case:
    if rng.random() < 0.7:
        name = rng.choice(CONFIGS)
        kind = rng.choice((_value, _value, _value, _text))
        about, data = kind(rng, (model_folder() / name).read_bytes())
        return Case(f"{name}: {about}", {name: data})
    name = rng.choice(WEIGHTS)
    about, data = _weights(rng, Raw.read(model_folder() / name))
    return Case(f"{name}: {about}", {name: data})


def _value(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """A value of the JSON is another, or is not there."""
    value = json.loads(data)
    about = _changed(rng, value)
    return about, json.dumps(value).encode()


def _changed(rng: random.Random, value: Any) -> str:
    """Changes one value, mostly near the top; returns what was done."""
    place, holder = "", value
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = rng.choice(keys)
        place += f"[{key!r}]"
        below = holder[key]
        if isinstance(below, dict | list) and below and rng.random() < 0.5:
            holder = below
            continue
        if rng.random() < 0.15:
            del holder[key]
            return f"no {place}"
        if isinstance(holder, dict) and rng.random() < 0.15:
            more = rng.choice(_MORE)
            holder[more] = rng.choice(_ODD)
            return f"{place}, beside it {more!r} = {holder[more]!r}"[:200]
        holder[key] = rng.choice(_ODD)
        return f"{place} = {holder[key]!r}"[:200]


def _text(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """The bytes are no JSON any more, or are another kind of JSON."""
    at = rng.randrange(len(data))
    kinds: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[:at],
        "empty": lambda: b"",
        "a byte": lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
        "not UTF-8": lambda: data[:at] + b"\xff\xfe" + data[at:],
        "deep": lambda: b"[" * 100_000 + b"]" * 100_000,
        "deep objects": lambda: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "a list": lambda: b"[1, 2]",
        "a number": lambda: b"9" * 10_000,
        "not a number": lambda: b'{"sample_size": NaN}',
        "a key twice": lambda: b'{"_class_name": 1, "_class_name": 2}',
        "no object": lambda: b"null",
    }
    about = rng.choice(list(kinds))
    return about, kinds[about]()


def _weights(rng: random.Random, raw: Raw) -> tuple[str, bytes]:
    """The header says something else, or the file is not what it says."""
    whole, name = raw.whole, rng.choice(raw.names)
    at = rng.randrange(len(whole))
    entry = raw.header[name]
    begin, _ = entry["data_offsets"]

    def with_entry(**fields: Any) -> bytes:
        return Raw({**raw.header, name: {**entry, **fields}}, raw.data).whole

    kinds: dict[str, Callable[[], bytes]] = {
        "cut": lambda: whole[:at],
        "longer": lambda: whole + b"\0" * 8,
        "size of the header": lambda: rng.randbytes(8) + whole[8:],
        "a byte of the header": lambda: (
            whole[: 8 + at % 2000] + bytes([rng.randrange(256)]) + whole[9 + at % 2000 :]
        ),
        "dtype": lambda: with_entry(dtype=rng.choice(("F32", "BF16", "I16", "F8_E4M3", "X", 1, None))),
        "shape": lambda: with_entry(shape=rng.choice(([-1], [10**30], entry["shape"][::-1], [], "x"))),
        "offsets": lambda: with_entry(data_offsets=rng.choice(([0, 2**62], [5, 1], [0], None, [0, 0]))),
        "one less": lambda: raw.only([one for one in raw.names if one != name]).whole,
        "another name": lambda: json.dumps(raw.header).replace(name, "x").encode(),
        "not finite": lambda: whole[: -len(raw.data) + begin] + b"\x00\x7e" + whole[-len(raw.data) + begin + 2 :],
        "a pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "metadata": lambda: Raw({**raw.header, "__metadata__": rng.choice(_ODD)}, raw.data).whole,
        "any": lambda: _any_header(rng, raw),
    }  # fmt: skip
    about = rng.choice(list(kinds))
    return f"{about} ({name})", kinds[about]()


def _any_header(rng: random.Random, raw: Raw) -> bytes:
    header = json.loads(json.dumps(raw.header))
    _changed(rng, header)
    return Raw(header, raw.data).whole
