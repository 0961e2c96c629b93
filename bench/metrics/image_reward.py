"""ImageReward (Xu et al. 2023, https://arxiv.org/abs/2304.05977): what people think of an image for its prompt.

A BLIP that reads the prompt over the image, and a small head. The layers are those of transformers' BLIP;
the weights are the authors' ``ImageReward.pt``, converted once to safetensors (``docs/metrics.md``).
Rewards are scaled as the authors scale them: mean 0 and spread 1 over their training images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bench.core.clock import model_time
from bench.core.errors import UsageError, in_one_line
from bench.core.files import all_regular, expanded, is_folder
from bench.core.kept import kept_while_same
from bench.core.lazy import torch
from bench.core.spec import runtime
from bench.interfaces import Metric, UtilityBatch
from bench.toolkit.clip_towers import Preprocess
from bench.toolkit.network_folder import check_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["ImageReward"]

_SIDE: Final = 224
_WORDS: Final = 35
_HEAD: Final = 64  # the width of an attention head
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
_PIXELS: Final = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_CHUNK: Final = 16
_LAYERS: Final = (0, 2, 4, 6, 7)
_TOKENIZER: Final = "tokenizer.json"
# The authors' names of the image tower, and transformers'.
_NAMES: Final = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj", "embeddings.patch_embedding"),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward(Metric):
    """The reward of an image for its prompt; higher is better.

    Attributes:
        weights: A folder with one safetensors file, the authors' tensors under their names, and
            ``tokenizer.json`` of bert-base-uncased. Required.
    """

    name: ClassVar[str] = "image_reward"
    needs: ClassVar[tuple[str, ...]] = ("weights",)
    weights: str = runtime("")

    def files(self) -> tuple[Path, ...]:
        """The weights and the tokenizer."""
        return _files(expanded(self.weights)) if self.weights else ()

    def check_base(self, folder: Path | None) -> None:
        """Refuses a folder that is missing or unfit; the network is read, for only that tells."""
        try:
            place = expanded(self.weights)
            if not is_folder(place):
                raise UsageError(f"expected a folder, got {self.weights}, which is none")
            for name in ("*.safetensors", _TOKENIZER):
                if len(found := list(place.glob(name))) != 1:
                    raise UsageError(
                        f"{self.weights}: expected one file {name}, got {len(found)}; docs/metrics.md "
                        "says how to convert the authors' file"
                    )
            check_files(_files(place))
            _load(all_regular(place).resolve(), "cpu")
        except UsageError as error:
            raise error.below(self.name, "weights") from error

    def values(self, batch: UtilityBatch) -> Tensor:
        """The rewards.

        Returns:
            float32 [B]; most lie between -2 and 2.
        """
        images = batch.images_B3HW
        look = _load(expanded(self.weights).resolve(), str(images.device))
        rows = [images.new_empty(0)]
        for at in range(0, len(images), _CHUNK):
            with torch.no_grad(), model_time():
                rows.append(look(images[at : at + _CHUNK], list(batch.prompts[at : at + _CHUNK])))
        return torch.cat(rows)


def _files(folder: Path) -> tuple[Path, ...]:
    return (*sorted(folder.glob("*.safetensors")), folder / _TOKENIZER)


@kept_while_same(lambda folder, device: _files(folder), most=2)
def _load(folder: Path, device: str) -> Any:
    """Images and their prompts -> rewards [B].

    Raises:
        UsageError: the tensors are not the network's.
    """
    from safetensors.torch import load_file
    from transformers import PreTrainedTokenizerFast
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    (path,) = sorted(folder.glob("*.safetensors"))
    tensors = load_file(path)
    try:
        with torch.random.fork_rng(devices=[]):
            vision: Any = BlipVisionModel(_vision(tensors))
            text: Any = BlipTextModel(_text(tensors), add_pooling_layer=False)
        _fill(vision, _part(tensors, "blip.visual_encoder.", _NAMES))
        _fill(text, _part(tensors, "blip.text_encoder.", ()))
        head = [
            (tensors[f"mlp.layers.{n}.weight"], tensors[f"mlp.layers.{n}.bias"]) for n in _LAYERS
        ]
    except (KeyError, RuntimeError, ZeroDivisionError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else in_one_line(error)
        raise UsageError(f"{path}: expected ImageReward's tensors, got {told}") from error
    vision, text = (net.to(device).eval().requires_grad_(False) for net in (vision, text))
    head = [(w.float().to(device), b.float().to(device)) for w, b in head]
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / _TOKENIZER), pad_token="[PAD]")  # noqa: S106
    preprocess = Preprocess(_SIDE, *_PIXELS)

    def look(images_B3HW: Tensor, prompts: list[str]) -> Tensor:
        asked = words(
            prompts, padding="max_length", truncation=True, max_length=_WORDS, return_tensors="pt"
        )
        seen = vision(pixel_values=preprocess(images_B3HW)).last_hidden_state
        read = text(
            input_ids=asked["input_ids"].to(device),
            attention_mask=asked["attention_mask"].to(device),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
        )
        x = read.last_hidden_state[:, 0]
        for weight, bias in head:
            x = x @ weight.T + bias
        return (x[:, 0] - _MEAN) / _STD

    return look


def _vision(tensors: Mapping[str, Tensor]) -> Any:
    from transformers import BlipVisionConfig

    patch = tensors["blip.visual_encoder.patch_embed.proj.weight"]
    width, depth = len(patch), _depth(tensors, "blip.visual_encoder.blocks.")
    return BlipVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // _HEAD,
        intermediate_size=len(tensors["blip.visual_encoder.blocks.0.mlp.fc1.weight"]),
        image_size=_SIDE, patch_size=patch.shape[-1], layer_norm_eps=1e-6,
    )  # fmt: skip


def _text(tensors: Mapping[str, Tensor]) -> Any:
    from transformers import BlipTextConfig

    begin = "blip.text_encoder."
    vocabulary, width = tensors[f"{begin}embeddings.word_embeddings.weight"].shape
    key = tensors[f"{begin}encoder.layer.0.crossattention.self.key.weight"]
    return BlipTextConfig(
        vocab_size=vocabulary, hidden_size=width, encoder_hidden_size=key.shape[1],
        num_hidden_layers=_depth(tensors, f"{begin}encoder.layer."),
        num_attention_heads=width // _HEAD,
        intermediate_size=len(tensors[f"{begin}encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(tensors[f"{begin}embeddings.position_embeddings.weight"]),
    )  # fmt: skip


def _depth(tensors: Mapping[str, Tensor], begin: str) -> int:
    numbers = {n.removeprefix(begin).partition(".")[0] for n in tensors if n.startswith(begin)}
    return len(numbers)


def _part(
    tensors: Mapping[str, Tensor], begin: str, names: tuple[tuple[str, str], ...]
) -> dict[str, Tensor]:
    """The tensors of a tower under transformers' names."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(begin):
            own = name.removeprefix(begin)
            for pattern, replacement in names:
                own = re.sub(pattern, replacement, own)
            found[own] = tensor.float()
    return found


def _fill(network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Fills a tower; what the network counts its places by may lack or be too much.

    Raises:
        RuntimeError: a tensor lacks, is too much, or has another shape.
    """
    told = network.load_state_dict(tensors, strict=False)
    odd = [n for n in (*told.missing_keys, *told.unexpected_keys) if not n.endswith("position_ids")]
    if odd:
        raise RuntimeError(f"others for {odd[0]}")
