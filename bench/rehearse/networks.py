"""Stand-ins for the networks of judges and metrics: the real classes and shapes, with random weights.

Tiny ones are narrow and shallow, and answer in the shape of the real ones: as many classes, features or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.core.rng import generator_for
from bench.model.random_values import random_values

__all__ = [
    "write_classifier", "write_clip", "write_embedder", "write_inception", "write_lpips",
    "write_photographs", "write_questions",
]  # fmt: skip

_SIDE: Final = 224
_TINY_SIDE: Final = 32
_INCEPTION: Final = 1008
# Channels and kernels of AlexNet's convolutions, by their place; a slice of LPIPS ends with each.
_ALEX: Final = {
    0: (3, 64, 11),
    3: (64, 192, 5),
    6: (192, 384, 3),
    8: (384, 256, 3),
    10: (256, 256, 3),
}
_ANSWERS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "yes", "no")
_TINY_TOWER: Final[dict[str, Any]] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
_LARGE: Final[dict[str, Any]] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip


def write_classifier(folder: Path, names: Sequence[str], *, real_size: bool) -> None:
    """A classifier of images with these classes: a ResNet-50 of ImageNet's thousand, else a ViT.

    Args:
        folder: Where it is written, as transformers writes one.
        names: Of its classes, in order.
        real_size: As wide and deep as the published one, and not a tiny one.
    """
    import transformers

    if len(names) == 1000:
        small: dict[str, Any] = {
            "embedding_size": 8,
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
            "layer_type": "basic",
        }
        config: Any = transformers.ResNetConfig(**({} if real_size else small))
        cls: Any = transformers.ResNetForImageClassification
    else:
        small = {**_TINY_TOWER, "image_size": _TINY_SIDE, "patch_size": 16}
        config = transformers.ViTConfig(**({} if real_size else small))
        cls = transformers.ViTForImageClassification
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    _save(cls(config), folder, _SIDE if real_size else _TINY_SIDE)


def write_embedder(folder: Path, *, real_size: bool) -> None:
    """A network that embeds faces: a ViT."""
    import transformers

    small: dict[str, Any] = {**_TINY_TOWER, "image_size": _TINY_SIDE, "patch_size": 16}
    config = transformers.ViTConfig(**({} if real_size else small))
    _save(transformers.ViTModel(config), folder, _SIDE if real_size else _TINY_SIDE)


def write_clip(folder: Path, words: Any, *, real_size: bool) -> None:
    """A CLIP: of ViT-L/14's configuration, or tiny.

    Args:
        folder: Where it is written, its tokenizer too. Its name decides its values: two are two networks.
        words: Its tokenizer.
        real_size: As wide and deep as the published one.
    """
    import transformers

    length = words.model_max_length
    text: dict[str, Any] = {
        "vocab_size": len(words), "max_position_embeddings": length, "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    wide = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    side = _SIDE if real_size else _TINY_SIDE
    vision = _LARGE if real_size else {**_TINY_TOWER, "patch_size": 16}
    config = transformers.CLIPConfig(
        text_config={**text, **(wide if real_size else _TINY_TOWER)},
        vision_config={**vision, "image_size": side},
        projection_dim=768 if real_size else 32,
    )
    network: Any = random_values(
        transformers.CLIPModel(config), "clip", folder.parent.name, folder.name
    )
    with torch.no_grad():
        network.logit_scale.fill_(4.6)
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)


def write_questions(folder: Path, *, real_size: bool) -> None:
    """A BLIP that answers questions, with a vocabulary of yes, no and little else."""
    import transformers

    special = {"bos_token_id": 4, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    side = 384 if real_size else _TINY_SIDE
    size: dict[str, Any] = {} if real_size else _TINY_TOWER
    width = 768 if real_size else 32
    config = transformers.BlipConfig(
        text_config={"vocab_size": len(_ANSWERS), "encoder_hidden_size": width, **special, **size},
        vision_config={"image_size": side, "patch_size": 16, **size},
    )
    _save(transformers.BlipForQuestionAnswering(config), folder, side)
    known = {word: number for number, word in enumerate(_ANSWERS)}
    transformers.BertTokenizer(vocab=known).save_pretrained(folder)


def write_inception(path: Path) -> None:
    """FID's network; it has one size."""
    from torchvision.models import Inception3

    with torch.device("meta"):
        network = Inception3(num_classes=_INCEPTION, aux_logits=False, init_weights=False)
    made = random_values(network, "inception").state_dict()
    _write(path, {name: t for name, t in made.items() if not name.endswith("num_batches_tracked")})


def write_lpips(path: Path) -> None:
    """LPIPS's AlexNet with its heads; it has one size."""
    tensors: dict[str, Tensor] = {}
    for number, (place, (inside, outside, kernel)) in enumerate(_ALEX.items()):
        name = f"net.slice{number + 1}.{place}"
        generator = generator_for("rehearsal", "lpips", number)
        weight = torch.randn(outside, inside, kernel, kernel, generator=generator)
        tensors[f"{name}.weight"] = weight / (inside * kernel**2) ** 0.5
        tensors[f"{name}.bias"] = torch.zeros(outside)
        tensors[f"lin{number}.model.1.weight"] = torch.full((1, outside, 1, 1), 1 / outside)
    _write(path, tensors)


def write_photographs(folder: Path, people: Sequence[str]) -> None:
    """A folder per person with a picture of noise in it."""
    from PIL import Image

    for name in people:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        generator = generator_for("rehearsal", "photograph", name)
        pixels = torch.randint(256, (64, 64, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / "noise.png")


def _save(network: Any, folder: Path, side: int) -> None:
    """Writes a network, its values random, with an image processor of its size."""
    import transformers

    random_values(network, type(network).__name__, folder.parent.name).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
