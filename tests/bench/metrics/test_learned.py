"""LPIPS, ImageReward and Inception: the real layers with small or random weights, against another way to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import UtilityBatch
from bench.metrics.image_reward import ImageReward
from bench.metrics.lpips import Lpips
from bench.toolkit.inception import InceptionFeatures


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator_for("images", *shape))


def batch(edited: Tensor, base: Tensor, prompts: list[str] | None = None) -> UtilityBatch:
    n = len(edited)
    return UtilityBatch(
        prompts=prompts or ["a star"] * n,
        concepts=[None] * n,
        images_B3HW=edited,
        base_images_B3HW=base,
    )


def shaken(network: Any) -> Any:
    generator = generator_for("weights")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return network.eval()


# --- LPIPS


SLICES = {
    "alex": ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12)),
    "vgg": ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30)),
}


def lpips_file(kind: str, path: Path) -> tuple[Any, list[Tensor]]:
    """Random weights under the package's names; the trunk and the heads."""
    with torch.random.fork_rng(devices=[]):
        made = torchvision.models.alexnet if kind == "alex" else torchvision.models.vgg16
        trunk = shaken(made(init_weights=False).features if kind == "vgg" else made().features)
    tensors: dict[str, Tensor] = {}
    heads = []
    x = torch.zeros(1, 3, 64, 64)
    for number, (first, last) in enumerate(SLICES[kind]):
        for place in range(first, last):
            for name, weight in trunk[place].named_parameters():
                tensors[f"net.slice{number + 1}.{place}.{name}"] = weight.detach().clone()
            x = trunk[place](x)
        heads.append(torch.rand(1, x.shape[1], 1, 1, generator=generator_for("head", number)))
        key = "lin" if number % 2 else "lins."  # a converter keeps either name
        tensors[f"{key}{number}.model.1.weight"] = heads[-1]
    save_file(tensors, path)
    return trunk, heads


def by_hand(kind: str, trunk: Any, heads: list[Tensor], one: Tensor, other: Tensor) -> Tensor:
    """The paper's formula over torchvision's own layers."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total = torch.zeros(len(one))
    pair = [(2 * x - 1 - shift) / scale for x in (one, other)]
    for (first, last), head in zip(SLICES[kind], heads, strict=True):
        pair = [trunk[first:last](x.clone()) for x in pair]
        a, b = (x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in pair)
        total += (((a - b) ** 2) * head).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_lpips_is_the_formula_over_torchvisions_layers(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "lpips.safetensors"
    trunk, heads = lpips_file(kind, path)
    metric = Lpips(weights=str(path))
    metric.check_base(None)
    x, y = images(2, 3, 64, 64), images(2, 3, 64, 64).flip(0, 2)
    with torch.no_grad():
        expected = by_hand(kind, trunk, heads, x, y)
    got = metric.values(batch(x, y))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)
    assert bool((got > 0).all())
    assert metric.values(batch(x, x)).tolist() == [0, 0]


def test_lpips_refuses_what_lacks_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "lpips.safetensors"
    lpips_file("alex", path)
    tensors = load_file(path)
    del tensors["net.slice3.6.weight"]
    save_file(tensors, path)
    with pytest.raises(
        UsageError, match=r"^lpips\.weights: .*a tensor net\.slice3\.6\.weight, got"
    ):
        Lpips(weights=str(path)).check_base(None)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match=r"expected the tensors of lpips\.LPIPS"):
        Lpips(weights=str(path)).check_base(None)
    with pytest.raises(UsageError, match="which is not there"):
        Lpips(weights=str(tmp_path / "nothing.safetensors")).check_base(None)


# --- ImageReward


def theirs(name: str) -> str:
    """A name of transformers' image tower as the authors' file has it."""
    pairs = (
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("encoder.layers.", "blocks."),
        ("layer_norm1", "norm1"),
        ("layer_norm2", "norm2"),
        ("self_attn.projection", "attn.proj"),
        ("self_attn", "attn"),
        ("post_layernorm", "norm"),
    )
    for own, other in pairs:
        name = name.replace(own, other)
    return name


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, dict[str, Tensor]]:
    """A folder in the authors' names, and the towers that it holds."""
    folder = tmp_path_factory.mktemp("reward")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "star", "fish"]
    BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)}).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        vision = shaken(
            BlipVisionModel(
                BlipVisionConfig(
                    hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                    image_size=224, patch_size=56, layer_norm_eps=1e-6,
                )
            )
        )  # fmt: skip
        text = shaken(
            BlipTextModel(
                BlipTextConfig(
                    vocab_size=len(vocabulary), hidden_size=64, encoder_hidden_size=128,
                    num_hidden_layers=2, num_attention_heads=1, intermediate_size=64,
                    max_position_embeddings=48,
                ),
                add_pooling_layer=False,
            )
        )  # fmt: skip
    tensors = {f"blip.visual_encoder.{theirs(n)}": t for n, t in vision.state_dict().items()}
    tensors |= {f"blip.text_encoder.{n}": t for n, t in text.state_dict().items()}
    sizes = {0: (64, 32), 2: (32, 16), 4: (16, 8), 6: (8, 4), 7: (4, 1)}
    head = {}
    for number, (wide, narrow) in sizes.items():
        generator = generator_for("head", number)
        head[f"mlp.layers.{number}.weight"] = (
            torch.randn(narrow, wide, generator=generator) / wide**0.5
        )
        head[f"mlp.layers.{number}.bias"] = torch.randn(narrow, generator=generator)
    save_file(
        {n: t.contiguous() for n, t in (tensors | head).items()}, folder / "reward.safetensors"
    )
    return folder, vision, text, head


def test_image_reward_reads_the_prompt_over_the_image(
    reward: tuple[Path, Any, Any, dict[str, Tensor]],
) -> None:
    folder, vision, text, head = reward
    metric = ImageReward(weights=str(folder))
    metric.check_base(None)
    x = images(3, 3, 224, 224)
    got = metric.values(batch(x, x, ["a star", "fish", "a star"]))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 5, 6, 3]])
    with torch.no_grad():
        seen = vision(pixel_values=(x - mean) / std).last_hidden_state
        out = text(
            input_ids=ids, attention_mask=(ids > 0).long(), encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        ).last_hidden_state[:, 0]  # fmt: skip
        for number in (0, 2, 4, 6, 7):
            out = F.linear(
                out, head[f"mlp.layers.{number}.weight"], head[f"mlp.layers.{number}.bias"]
            )
    expected = (out[:, 0] - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_image_reward_refuses_what_is_not_whole(
    reward: tuple[Path, Any, Any, dict[str, Tensor]], tmp_path: Path
) -> None:
    tensors = load_file(reward[0] / "reward.safetensors")
    del tensors["blip.visual_encoder.blocks.1.mlp.fc2.bias"]
    save_file(tensors, tmp_path / "reward.safetensors")
    metric = ImageReward(weights=str(tmp_path))
    with pytest.raises(
        UsageError, match=r"^image_reward\.weights: .* one file tokenizer\.json, got 0"
    ):
        metric.check_base(None)
    (tmp_path / "tokenizer.json").write_bytes((reward[0] / "tokenizer.json").read_bytes())
    with pytest.raises(
        UsageError, match=r"expected ImageReward's tensors, got others for .*fc2\.bias"
    ):
        metric.check_base(None)


# --- Inception


@pytest.mark.slow
def test_a_file_of_torchvision_gives_torchvisions_features(tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    with torch.random.fork_rng(devices=[]):
        network = torchvision.models.Inception3(aux_logits=False, init_weights=False)
    network = shaken(network)
    save_file(network.state_dict(), path)
    features = InceptionFeatures(weights=str(path))
    features.check_base(None)
    x = images(1, 3, 299, 299)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network((x - mean) / std)
    got = features.vectors(x)
    assert got.shape == (1, 2048)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)

    # FID's network has 1008 classes; its pools differ, so its features do.
    weights = load_file(path)
    weights["fc.weight"], weights["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    save_file(weights, path.with_name("fid.safetensors"))
    fid = InceptionFeatures(weights=str(path.with_name("fid.safetensors"))).vectors(x)
    assert fid.shape == (1, 2048) and bool((fid - got).abs().max() > 1e-6)


def test_pools_are_those_of_the_network_that_was_converted() -> None:
    from bench.toolkit.inception import _as_in_tensorflow

    with torch.random.fork_rng(devices=[]):
        network: Any = shaken(torchvision.models.Inception3(aux_logits=False, init_weights=False))
    averaged, largest = network.Mixed_5b, network.Mixed_7c
    x, y = images(1, 192, 7, 7), images(1, 2048, 5, 5)
    with torch.no_grad():
        others = averaged(x)[:, :-32], largest(y)[:, :-192]
        mean = averaged.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
        most = largest.branch_pool(F.max_pool2d(y, 3, 1, 1))
        _as_in_tensorflow(network)
        torch.testing.assert_close(
            network.Mixed_5b(x), torch.cat([others[0], mean], 1), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            network.Mixed_7c(y), torch.cat([others[1], most], 1), rtol=1e-4, atol=1e-5
        )


def test_inception_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(10, 2048)}, path)
    with pytest.raises(UsageError, match=r"Inception's fc\.weight of 1008 or 1000 classes, got 10"):
        InceptionFeatures(weights=str(path)).check_base(None)
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match="pickled weights are not read"):
        InceptionFeatures(weights=str(tmp_path / "weights.pth")).check_base(None)
    save_file({"fc.weight": torch.zeros(1008, 2048)}, path)
    with pytest.raises(UsageError, match="expected Inception's weights, got"):
        InceptionFeatures(weights=str(path)).check_base(None)
