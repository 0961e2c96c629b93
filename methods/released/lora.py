"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) merged into parameters: ``W + s alpha/r B A``.

Rank-stabilised ones (Kalajdzievski 2023, arXiv 2312.03732), which say so in their settings, have
``alpha/sqrt(r)``. Without an alpha, it is r.

Three ways of writing the same thing are read: PEFT's and diffusers' (``….to_k.lora_A.weight``),
older diffusers' (``….to_k.lora.down.weight``, ``….processor.to_k_lora.down.weight``) and kohya's
(``lora_unet_…_to_k.lora_down.weight`` with an ``alpha`` beside).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from bench.core.errors import UsageError, shown
from methods.released.files import PARTS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Layer", "Shapes", "is_lora", "layers", "merged", "within"]

Shapes = Mapping[str, tuple[int, ...]]

_HALF = re.compile(
    r"(?P<module>.+?)(?:\.lora|_lora|\.lora_linear_layer)?[._]"
    r"(?P<half>lora_A|lora_B|lora_down|lora_up|down|up)(?:\.\w+)?\.weight"
)
_OLD_TEXT = re.compile(r"\.self_attn\.to_(q|k|v|out)$")
_DOWN = {"lora_A", "lora_down", "down"}
_KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
          "lora_te2_": "text_encoder_2"}  # fmt: skip
_ORIGINAL = re.compile(
    r"((?P<middle>middle_block)|(?P<way>input|output)_blocks_(?P<at>\d+))_1_(?P<rest>.+)"
)
_BASE = "give the model that it was made from as base"
_SETTINGS = "correct the adapter's settings"
_LARGEST = 1e9  # an alpha; released ones are from 1 to some hundreds


@dataclass(frozen=True, slots=True)
class Layer:
    """Where an adapter changes a parameter.

    Attributes:
        parameter: ``component.name``.
        down: The name of the half [r, in, ...] in the file.
        up: Of the half [out, r, ...].
        strength: alpha/r, or alpha/sqrt(r).
    """

    parameter: str
    down: str
    up: str
    strength: float


def is_lora(names: Mapping[str, Any]) -> bool:
    """Whether a file with these names holds an adapter."""
    return any("lora" in name for name in names)


def within(known: Mapping[str, Any], part: str, name: str) -> str | None:
    """The base's ``component.name`` of a name in a file; ``None`` if it has none.

    Versions of transformers disagree on whether the text tower is nested in a ``text_model``.
    """
    name = name.removeprefix("base_model.model.").removeprefix(f"{part}.")
    bare = name.removeprefix("text_model.")
    tried = (f"{part}.{name}", f"{part}.{bare}", f"{part}.text_model.{bare}")
    return next((full for full in tried if full in known), None)


def layers(
    known: Shapes,
    file: Shapes,
    about: Mapping[str, Any],
    number: Callable[[str], float],
    *,
    origin: str,
) -> list[Layer]:
    """The changes that an adapter makes, from names, shapes and settings; no matrix is read.

    Args:
        known: The base's parameters.
        file: The adapter's tensors: down [r, in], up [out, r] or their convolutions, and alphas.
        about: PEFT's settings; ``lora_alpha``, ``alpha_pattern`` and ``use_rslora`` are read, of a
            component or of all.
        number: The value of an alpha that is a tensor.
        origin: For errors.

    Raises:
        UsageError: a name that is not understood or not in the base, or a half without the other.
            Or a layer comes twice, shapes do not fit, or settings are no numbers.
    """
    modules = _Modules(known, origin)
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    alphas: dict[str, str] = {}
    for name, shape in file.items():
        if name.endswith(".alpha") and math.prod(shape) == 1:
            found, module = alphas, name.removesuffix(".alpha")
        elif match := _HALF.fullmatch(name):
            found, module = (downs if match["half"] in _DOWN else ups), match["module"]
        else:
            raise UsageError(
                f"expected the down, up and alpha of a LoRA, got {name} in {origin}; merge the "
                "adapter into its model and give that"
            )
        parameter = modules.parameter(module)
        if parameter in found:
            raise UsageError(
                f"expected each layer once, got {found[parameter]} and {name} in {origin}; give "
                "the adapters one by one"
            )
        found[parameter] = name
    if lonely := sorted(downs.keys() ^ ups.keys()):
        raise UsageError(
            f"expected a down and an up half of each layer, got one for {lonely[0]} in {origin}; "
            "the file is incomplete"
        )
    if lonely := sorted(alphas.keys() - downs.keys()):
        raise UsageError(
            f"expected an alpha beside a down and an up half, got one alone for {lonely[0]} in "
            f"{origin}; the file is incomplete"
        )
    made = []
    settings = _Settings(about, origin)
    for name, down in downs.items():
        _fit(name, known[name], file[down], file[ups[name]], origin)
        told = number(alphas[name]) if name in alphas else None
        made.append(Layer(name, down, ups[name], settings.strength(name, file[down][0], told)))
    return made


def merged(W: Tensor, down: Tensor, up: Tensor, strength: float) -> Tensor:
    """``W + strength * up down`` in float32, computed in float64."""
    delta = (up.flatten(1).double() @ down.flatten(1).double()).reshape(W.shape)
    return (W.double().cpu() + strength * delta).float()


def _fit(
    name: str, shape: tuple[int, ...], down: tuple[int, ...], up: tuple[int, ...], origin: str
) -> None:
    rank = down[0] if down else 0
    fits = min(len(shape), len(down), len(up)) >= 2 and (up[0], math.prod(up[1:])) == (
        shape[0],
        rank,
    )
    if not fits or math.prod(down[1:]) != math.prod(shape[1:]):
        raise UsageError(
            f"expected a LoRA of {name} of shape {shape}, got down {down} and up {up} in {origin}; "
            f"{_BASE}"
        )
    if not rank:
        raise UsageError(
            f"expected a LoRA of rank 1 or more of {name}, got rank 0 in {origin}; the file is empty"
        )


class _Settings:
    """PEFT's settings of an adapter, as far as they decide its strength.

    Raises:
        UsageError: one is not of its type.
    """

    def __init__(self, about: Mapping[str, Any], origin: str) -> None:
        self._about, self._origin = about, origin
        self._by_part: dict[str, Mapping[str, tuple[int, Any]]] = {}

    def strength(self, name: str, rank: int, alpha: float | None) -> float:
        """alpha/r, or alpha/sqrt(r) of a rank-stabilised adapter; an alpha of the file comes first."""
        part, _, path = name.partition(".")
        module = path.removesuffix(".weight").removeprefix("text_model.")
        usual = self._number(name, self._said(part, "lora_alpha"), rank)
        steps = module.split(".")
        ends = (".".join(steps[i:]) for i in range(len(steps)))
        patterns = self._patterns(part)
        if found := [patterns[end] for end in ends if end in patterns]:
            usual = self._number(
                name, min(found, key=itemgetter(0))[1], usual
            )  # the first in the file
        stabilised = self._said(part, "use_rslora")
        if stabilised not in (None, True, False):
            raise self._wrong("true or false as use_rslora", stabilised)
        alpha = usual if alpha is None else self._number(name, alpha, usual)
        return alpha / (rank**0.5 if stabilised else rank)

    def _said(self, part: str, key: str) -> Any:
        return self._about.get(f"{part}.{key}", self._about.get(key))

    def _number(self, name: str, value: Any, otherwise: float) -> float:
        if value is None:
            return otherwise
        sound = isinstance(value, int | float) and not isinstance(value, bool)
        if not sound or not abs(value) < _LARGEST:  # which no NaN is
            raise self._wrong(f"a number as the alpha of {name}", value)
        return float(value)

    def _patterns(self, part: str) -> Mapping[str, tuple[int, Any]]:
        """Of ``alpha_pattern``, by layer: its place and its value."""
        if part not in self._by_part:
            value = self._said(part, "alpha_pattern")
            if not isinstance(value, Mapping | None):
                raise self._wrong("a mapping of layers to numbers as alpha_pattern", value)
            named = [(self._layer(key), alpha) for key, alpha in (value or {}).items()]
            self._by_part[part] = {key: (i, alpha) for i, (key, alpha) in enumerate(named)}
        return self._by_part[part]

    def _layer(self, pattern: str) -> str:
        """The layer that a key of ``alpha_pattern`` names; only plain names are read."""
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not re.fullmatch(r"[\w.]+", plain):
            raise UsageError(
                f"expected names of layers in alpha_pattern, got {shown(pattern)} in "
                f"{self._origin}; merge the adapter into its model and give that"
            )
        return plain.removeprefix("text_model.")

    def _wrong(self, expected: str, value: Any) -> UsageError:
        return UsageError(f"expected {expected}, got {shown(value)} in {self._origin}; {_SETTINGS}")


class _Modules:
    """Finds the base's parameter of a module in a file."""

    def __init__(self, known: Shapes, origin: str) -> None:
        self._known, self._origin = known, origin
        self._flat: dict[tuple[str, str], str] = {}
        self._is_xl = any(name.startswith("text_encoder_2.") for name in known)
        self._layers = len(
            {m[1] for n in known if (m := re.match(r"unet\.down_blocks\.0\.resnets\.(\d+)\.", n))}
        )
        for name in known:
            part, _, path = name.partition(".")
            if path.endswith(".weight"):
                plain = path.removeprefix("text_model.").removesuffix(".weight")
                self._flat.setdefault((part, plain.replace(".", "_")), name)

    def parameter(self, module: str) -> str:
        """``component.name``.

        Raises:
            UsageError: the base has none.
        """
        for prefix, part in _KOHYA.items():
            if module.startswith(prefix):
                flat = module.removeprefix(prefix).removeprefix("text_model_")
                if name := self._flat.get((part, self._renamed(flat))):
                    return name
                raise self._foreign(module)
        # Old attention processors held the four projections of a layer themselves, and called those of
        # the text encoder as they did the UNet's.
        path = _OLD_TEXT.sub(r".self_attn.\1_proj", module.replace(".processor.", "."))
        named = [p for p in PARTS if path.startswith(f"{p}.")]
        for part in named or PARTS:
            for tail in (".weight", ".0.weight"):
                if found := within(self._known, part, path + tail):
                    return found
        raise self._foreign(module)

    def _renamed(self, flat: str) -> str:
        """The module by diffusers' name, if it is SDXL's by its original one, as kohya's trainer writes it."""
        if not (self._is_xl and (found := _ORIGINAL.fullmatch(flat))):
            return flat
        if found["middle"]:
            return f"mid_block_attentions_0_{found['rest']}"
        down = found["way"] == "input"
        # Counted through: the first is the convolution at the entrance, and each block ends with what
        # changes its size, or has a layer more.
        block, layer = divmod(int(found["at"]) - down, self._layers + 1)
        return f"{'down' if down else 'up'}_blocks_{block}_attentions_{layer}_{found['rest']}"

    def _foreign(self, module: str) -> UsageError:
        return UsageError(
            f"expected a LoRA of layers of the base, got {module} in {self._origin}; {_BASE}, or "
            "convert the names to diffusers'"
        )
