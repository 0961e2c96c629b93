"""Parameters by role, and what happens where a family has none of a role that a method needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import pytest
from torch import nn

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.interfaces import Concept, Erasure, Rng, Role
from bench.model.families import known
from bench.model.families.family import Family
from bench.model.families.known import FAMILIES, family_in, family_named
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.text_to_image import TextToImage
from bench.run.plan import make_plan
from methods.esd import ESD
from methods.few_shot import FewShot
from methods.negative_prompt import NegativePromptErasure
from methods.rece import RECE
from methods.uce import UCE
from tvc.method import TaskVectorErasure

HEART = Concept(text="heart")
Where = Callable[[str, nn.Module], bool]


def held(network: nn.Module, part: str, where: Where) -> set[str]:
    """The parameters of the modules for which something holds, by their own structure."""
    return {
        f"{part}.{path}.{name}"
        for path, module in network.named_modules()
        if where(path, module)
        for name, _ in module.named_parameters()
    }


def test_every_parameter_has_a_role_and_every_role_a_parameter(model: TextToImage) -> None:
    roles = {name: model.roles_of(name) for name in model.base_values}
    assert all(roles.values())
    assert frozenset().union(*roles.values()) == type(model.backbone).roles == frozenset(Role)
    for role in Role:
        assert model.having(role) == [name for name in model.base_values if role in roles[name]]
    assert not model.roles_of("vae.decoder.conv_in.weight")
    assert not model.roles_of("nothing")


def test_roles_are_what_the_networks_structure_says(model: TextToImage) -> None:
    unet, text = model.backbone.unet, model.backbone.text_encoder
    expected = {
        Role.DENOISER: held(unet, "unet", lambda path, module: path != ""),
        Role.NORM: held(unet, "unet", lambda p, m: isinstance(m, nn.GroupNorm | nn.LayerNorm)),
        Role.SELF_ATTENTION: held(unet, "unet", lambda p, m: p.endswith(".attn1")),
        Role.CROSS_ATTENTION: held(unet, "unet", lambda p, m: p.endswith(".attn2")),
        Role.FEED_FORWARD: held(unet, "unet", lambda p, m: p.endswith(".ff")),
        Role.TIME_EMBEDDING: held(unet, "unet", lambda p, m: p == "time_embedding"),
        Role.OUTPUT: held(unet, "unet", lambda p, m: p in ("conv_norm_out", "conv_out")),
        # The projections beside an attention are convolutions of one pixel in some models.
        Role.CONVOLUTION: held(
            unet, "unet", lambda p, m: isinstance(m, nn.Conv2d) and "attentions" not in p
        ),
        Role.TEXT_ENCODER: held(text, "text_encoder", lambda p, m: p != ""),
        Role.TEXT_SELF_ATTENTION: held(text, "text_encoder", lambda p, m: p.endswith(".self_attn")),
        Role.TEXT_FEED_FORWARD: held(text, "text_encoder", lambda p, m: p.endswith(".mlp")),
    }
    for role, names in expected.items():
        assert set(model.having(role)) == names, role
    text_states = model.encode(["a"]).states_BLD.shape[-1]
    looking = model.having(Role.TEXT_KEYS_AND_VALUES)
    blocks = [p for p, _ in unet.named_modules() if p.endswith(".attn2")]
    assert len(looking) == 2 * len(blocks)
    assert {model.parameter(name).shape[1] for name in looking} == {text_states}
    outs = model.having(Role.FEED_FORWARD_OUT)
    assert len(outs) == len(blocks)
    assert all(model.parameter(name).ndim == 2 for name in outs)


def test_text_layers_are_counted_from_0(model: TextToImage) -> None:
    layers = {model.text_layer(name) for name in model.having(Role.TEXT_SELF_ATTENTION)}
    assert layers == set(range(model.backbone.text_encoder.config.num_hidden_layers))
    assert model.text_layer(model.backbone.embeddings) == -1
    assert model.text_layer(model.having(Role.DENOISER)[0]) == -1


def test_a_network_by_its_name(model: TextToImage) -> None:
    for part in ("unet", "text_encoder", "vae"):
        assert model.backbone.network(part) is getattr(model.backbone, part)
    with pytest.raises(KeyError):
        model.layer("tokenizer.x")


# -- families


class Jointly(StableDiffusion):
    """A family without cross-attention, as those that attend to text and pixels jointly."""

    pipeline: ClassVar[str] = "JointPipeline"
    about: ClassVar[str] = "joint attention"
    roles: ClassVar[frozenset[Role]] = frozenset(Role) - {
        Role.CROSS_ATTENTION,
        Role.TEXT_KEYS_AND_VALUES,
    }


@pytest.fixture
def joint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of that family, as far as a plan looks."""
    monkeypatch.setattr(known, "FAMILIES", [*FAMILIES, Jointly])
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": Jointly.pipeline}))
    return tmp_path


NEEDY = (UCE(), RECE(), ESD(), ESD(variant="x-strict"), ESD(variant="u"))


@pytest.mark.parametrize("method", NEEDY, ids=lambda method: method.label)
def test_a_method_that_needs_what_a_base_has_not_is_refused(
    method: Erasure, joint: Path, model: TextToImage
) -> None:
    refused = rf"{method.name}: expected a base with .*, got one of joint attention, which has none"
    with pytest.raises(UsageError, match=refused):
        method.check_base(joint)
    values = {f.name: getattr(model.backbone, f.name) for f in fields(Family) if f.init}
    other = TextToImage(Jointly(**values))
    with pytest.raises(UsageError, match=refused):
        method(other, [HEART], rng=Rng(("families",)))


def test_it_is_refused_when_the_plan_is_made(joint: Path) -> None:
    suite = load_suite("mini-quick").with_(methods=["none", "destroyed", "uce"])
    with pytest.raises(UsageError, match="uce: expected a base with text keys and values"):
        make_plan(suite, "0" * 64, folder=joint)


@pytest.mark.parametrize(
    "method",
    [ESD(variant="all"), FewShot(), NegativePromptErasure()],
    ids=lambda method: method.name,
)
def test_what_needs_nothing_of_it_is_not(method: Erasure, joint: Path) -> None:
    method.check_base(joint)


def test_a_method_with_a_check_of_its_own_says_so_too(
    joint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jointly, "roles", frozenset({Role.TEXT_ENCODER}))
    with pytest.raises(UsageError, match="task_vector: expected a base with denoiser"):
        TaskVectorErasure().check_base(joint)


def test_what_no_family_handles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected StableDiffusionPipeline .*, got None"):
        family_named(None)
    assert family_in(tmp_path) is None
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(
        UsageError, match=r"expected StableDiffusionPipeline .*, got 'FluxPipeline'"
    ):
        family_in(tmp_path)
