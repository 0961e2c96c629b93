"""Output filter: blanks a sampled image that a checker takes for the concept.

Reproduced: the safety checker of Stable Diffusion (described by Rando et al. 2022, arXiv 2210.04610),
where its weights are given. It takes cosines of a CLIP image embedding with stored concept
embeddings. Each has its own threshold, lowered by 0.01 when one of the "special care" embeddings is
met. It knows the concepts that it was made for and no others, whatever is to be erased.

For any other concept the same idea with a CLIP: the odds of the concept's name against
alternatives. Different on purpose: the original's thresholds were set by hand. Here a threshold is
calibrated to a stated rate of false alarms. The images for that are the unedited model's, of
prompts that do not name the concept. The checker is never the judge that decides.

Bypassed by: serving the weights without the filter, which changes none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from bench.core.bounds import Count, Guidance, Number, Solver
from bench.core.clock import model_time
from bench.core.digest import file_sha256
from bench.core.errors import UsageError, in_one_line, shown
from bench.core.files import expanded, regular
from bench.core.json_files import read_object
from bench.core.kept import kept_while_same
from bench.core.lazy import F, torch
from bench.core.spec import PathText, content
from bench.core.templates import Template
from bench.core.weight_files import sound
from bench.interfaces import Concept, Context, Erasure, Progress, Rng, Slot
from bench.model.filters import ImageFilter
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.clip import check_source, clip_files, load_clip
from bench.toolkit.clip_towers import Preprocess
from bench.toolkit.images import images_of
from methods.shared.calibration import THINGS, named, threshold_at, unnamed_prompts

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClipChecker", "OutputFilter", "SafetyChecker"]

_ANYTHING = "something"
_BATCH = 64
_CHECKER = "safety_checker"  # where a pipeline folder has it


class ClipChecker(ImageFilter):
    """Blanks an image for which CLIP prefers a concept's name to its alternatives.

    Attributes:
        clip: A source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's.
        texts: What is blanked.
        alternatives: What each text competes with.
        thresholds: Log-odds above which an image is blanked, one per text.
        templates: What is said of each text at ``{}``; their features are averaged.
    """

    name: ClassVar[str] = "clip_checker"
    clip: str = ""
    texts: tuple[str, ...] = Field(min_length=1)
    alternatives: tuple[tuple[str, ...], ...]
    thresholds: tuple[Number, ...]
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        counts = (len(self.texts), len(self.alternatives), len(self.thresholds))
        if len(set(counts)) != 1:
            raise ValueError(
                "expected alternatives and a threshold for each text, got {1} and {2} for {0}".format(
                    *counts
                )
            )
        for text, others in zip(self.texts, self.alternatives, strict=True):
            if not set(others) - {text}:
                raise ValueError(f"expected alternatives to {text!r}, got only itself or none")
        return self

    def blanks(self, images_B3HW: Tensor) -> Tensor:
        """Bool [B]."""
        return (self.log_odds(images_B3HW) > torch.tensor(self.thresholds)).any(1)

    def log_odds(self, images_B3HW: Tensor) -> Tensor:
        """``log p - log(1 - p)`` of each text among its alternatives, float32 [B, T] on the CPU.

        Odds rather than probabilities, which are all one near the top: no threshold fits between.
        """
        clip = load_clip(self.clip, str(images_B3HW.device))
        images_BE = clip.image_features(images_B3HW)
        columns = []
        for text, others in zip(self.texts, self.alternatives, strict=True):
            names = list(dict.fromkeys((text, *others)))
            said = [t.replace("{}", name) for name in names for t in self.templates]
            texts_NPE = clip.known_features(tuple(said)).unflatten(0, (len(names), -1))
            texts_NE = F.normalize(texts_NPE.mean(1), dim=-1)
            logits_BN = clip.logit_scale * images_BE @ texts_NE.T
            columns.append(logits_BN[:, 0] - logits_BN[:, 1:].logsumexp(1))
        return torch.stack(columns, dim=1).float().cpu()


class SafetyChecker(ImageFilter):
    """Stable Diffusion's safety checker.

    Attributes:
        folder: Holds ``config.json`` and ``model.safetensors``.
        sha256: Of the weights; a filter that is loaded again must find the same ones.
    """

    name: ClassVar[str] = "safety_checker"
    folder: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def blanks(self, images_B3HW: Tensor) -> Tensor:
        """Bool [B].

        Raises:
            FileNotFoundError: its weights are not there.
            ValueError: they are not those of the edit, or of a safety checker.
        """
        check = _load_checker(expanded(self.folder).resolve(), self.sha256, str(images_B3HW.device))
        batches = images_B3HW.split(_BATCH) if len(images_B3HW) else ()
        return torch.tensor(
            [f for rows_b3HW in batches for f in check(rows_b3HW)], dtype=torch.bool
        )


class OutputFilter(Erasure):
    """Blanks images that show the concepts.

    There are no published constants for the CLIP checker. Presets:
        mini: Things that the miniature knows, sampled as its suites do: for a word that it does not
            know it paints anything, the concept included.

    Attributes:
        checker: ``clip``, or ``safety_checker``: Stable Diffusion's, which takes no notice of the
            concepts' names; its thresholds are in its weights.
        source: Of ``clip``, a source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's, on
            the miniature. Of ``safety_checker``, a folder; empty: the one in the base model's folder.
        false_positives: Share of images of other things that may be blanked, of each list of
            calibration prompts.
        things: Everyday things: what half of the calibration images show, and what an object
            competes with.
        threshold: Log-odds to use instead of the calibrated ones.
        alternatives: What a concept competes with; empty: its neighbours, "something" and, unless it
            is a style, the things.
        templates: What CLIP is told of a text, which takes the place of ``{}``.
        images: Calibration images sampled for each list.
        steps: Sampling steps of these.
        guidance_scale: Their guidance.
    """

    name: ClassVar[str] = "output_filter"
    slots: ClassVar[frozenset[Slot]] = frozenset({"filters"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("filters off",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mini": {
            "things": (
                "circle", "square", "triangle", "star", "heart", "moon", "ring", "cross", "arrow",
                "fish", "house", "flower",
            ),
            "steps": 6,
            "guidance_scale": 3.0,
        }
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {"images": 2, "steps": 2}
    checker: Literal["clip", "safety_checker"] = "clip"
    source: PathText = ""
    false_positives: float = Field(0.05, ge=0, lt=1)
    things: tuple[str, ...] = Field(THINGS, min_length=1)
    threshold: Number | None = None
    alternatives: tuple[str, ...] = ()
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)
    images: Count = 64
    steps: Solver = 25
    guidance_scale: Guidance = 7.5

    def files(self) -> tuple[Path, ...]:
        """The files of its CLIP; or the weights of the safety checker at ``source`` and their settings."""
        if self.checker == "clip":
            return clip_files(self.source)
        return _checker_files(Path(self.source)) if self.source else ()

    def base_files(self, folder: Path | None) -> tuple[Path, ...]:
        """The safety checker's in the base's folder, where no other is given."""
        mine = self.checker == "safety_checker" and not self.source
        return _checker_files(folder / _CHECKER) if mine and folder is not None else ()

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where no CLIP is given, and a checker that cannot be read.

        A base from the hub has none: of a pipeline only the networks that generate are downloaded.
        """
        at = (self.name, "source")
        if self.checker == "clip":
            check_source(self.source, folder, at=at)
            return
        try:
            path = _weights_of(self._checker_folder(folder))
            sound(regular(path))
            _load_checker(path.parent.resolve(), content(path), "cpu")
        except UsageError as error:
            raise error.below(*at) from error
        except FileNotFoundError as error:
            raise UsageError(f"{error}; give its folder as `source`", at=at) from error
        except ValueError as error:
            raise UsageError(in_one_line(error), at=at) from error

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with one more filter.

        Raises:
            ValueError: a concept without alternatives.
        """
        if self.checker == "safety_checker":
            return model.with_filters(self._safety_checker(model))
        filled = tuple(concept.text for concept in concepts)
        draft = ClipChecker(
            clip=self.source,
            texts=filled,
            alternatives=tuple(self.alternatives or self._others(c) for c in concepts),
            thresholds=(self.threshold or 0.0,) * len(filled),
            templates=self.templates,
        )
        if self.threshold is not None:
            return model.with_filters(draft)
        scores = self._calibration_scores(model, draft, concepts, ctx.rng, ctx.progress)
        # An image may be blanked for any of the concepts: they share the rate.
        rate = self.false_positives / len(filled)
        thresholds = tuple(
            threshold_at([odds_NT[:, t] for odds_NT in scores], rate) for t in range(len(filled))
        )
        return model.with_filters(
            ClipChecker.model_validate({**draft.model_dump(), "thresholds": thresholds})
        )

    def _others(self, concept: Concept) -> tuple[str, ...]:
        # A style does not compete with what is drawn in it.
        things = () if concept.family == "style" else self.things
        names = (*concept.neighbours, _ANYTHING, *things)
        return tuple(name for name in dict.fromkeys(names) if not named(concept.text, name))

    def _calibration_scores(
        self,
        model: TextToImage,
        draft: ClipChecker,
        concepts: Sequence[Concept],
        rng: Rng,
        progress: Progress,
    ) -> list[Tensor]:
        """Log-odds [images, T] for each list of prompts."""
        sampler = Sampler(steps=self.steps, guidance_scale=self.guidance_scale)
        unfiltered = replace(model, filters=())
        scores = []
        for name, prompts in unnamed_prompts(concepts, self.things).items():
            order = torch.randperm(len(prompts), generator=rng.generator("prompts", name)).tolist()
            drawn = [prompts[order[i % len(order)]] for i in range(self.images)]
            seeds = [rng.seed("image", name, i) for i in range(self.images)]
            images = images_of(unfiltered, drawn, seeds, sampler, progress=progress)
            scores.append(draft.log_odds(images))
        return scores

    def _safety_checker(self, model: TextToImage) -> SafetyChecker:
        folder = self._checker_folder(model.folder)
        return SafetyChecker(folder=str(folder.resolve()), sha256=file_sha256(_weights_of(folder)))

    def _checker_folder(self, base: Path | None) -> Path:
        if self.source:
            return expanded(self.source)
        if base is None:
            raise FileNotFoundError("expected a safety checker, got a base without a folder")
        return base / _CHECKER


# -- Stable Diffusion's safety checker -----------------------------------------------------------

_VISION_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels",
    "image_size", "patch_size", "hidden_act", "layer_norm_eps",
)  # fmt: skip
_CHECKER_FILES = ("config.json", "model.safetensors")
_TABLES = (
    "concept_embeds",
    "concept_embeds_weights",
    "special_care_embeds",
    "special_care_embeds_weights",
)
_PROJECTION = "visual_projection.weight"
# OpenAI's, which its feature extractor has.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _checker_files(folder: Path) -> tuple[Path, ...]:
    return tuple(expanded(folder).resolve() / name for name in _CHECKER_FILES)


def _weights_of(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if not path.is_file() or not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: expected config.json and model.safetensors of a safety checker; nothing is "
            "downloaded, and pickled weights (.bin) are not read: fetch or convert them"
        )
    return path


@kept_while_same(lambda folder, sha256, device: _checker_files(folder), most=2)
def _load_checker(folder: Path, sha256: str, device: str) -> Callable[[Tensor], list[bool]]:
    """Diffusers' own checker, filled from the two files that are in the digest and from nothing else.

    ``from_pretrained`` would read what lies beside them too, and leave random what it does not find.
    """
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from safetensors.torch import load_file
    from transformers import CLIPConfig

    path = _weights_of(folder)
    if (found := file_sha256(path)) != sha256:
        raise ValueError(
            f"{path}: expected the weights that the edit was made with (sha256 {sha256[:12]}), got "
            f"{found[:12]}; restore the file or make the edit again"
        )
    tensors = {_unnested(name): value.float() for name, value in load_file(path).items()}
    if missing := [n for n in (*_TABLES, _PROJECTION) if n not in tensors]:
        raise ValueError(f"{path}: expected a safety checker, got weights without {missing}")
    given = read_object(folder / "config.json").get("vision_config")
    if not isinstance(given, dict):
        raise UsageError(
            f"{folder / 'config.json'}: vision_config: expected an object, got {shown(given)}"
        )
    tower = {key: given[key] for key in _VISION_FIELDS if key in given}
    config = CLIPConfig(vision_config=tower, projection_dim=len(tensors[_PROJECTION]))
    with torch.random.fork_rng(devices=[]):  # a network is made with random weights, then filled
        network: Any = StableDiffusionSafetyChecker(config)
    for table in _TABLES:  # the class has room for the released checker's 17 and 3 concepts
        setattr(network, table, torch.nn.Parameter(tensors[table], requires_grad=False))
    names = {name: _unnested(name) for name in network.state_dict()}
    try:
        network.load_state_dict({n: tensors[key] for n, key in names.items() if key in tensors})
    except RuntimeError as error:
        reason = in_one_line(error)
        raise ValueError(
            f"{path}: expected the image tower of config.json, got {reason}"
        ) from error
    network = network.to(device).eval().requires_grad_(False)
    preprocess = Preprocess(int(given.get("image_size", 224)), _MEAN, _STD)
    # It would warn of each batch with a blanked image; here that is the image's status.
    logging.getLogger(StableDiffusionSafetyChecker.__module__).setLevel(logging.ERROR)

    def check(images_B3HW: Tensor) -> list[bool]:
        nothing = [torch.empty(0)] * len(images_B3HW)  # what it blanks: the caller does that
        with model_time():
            flags: list[bool] = network(preprocess(images_B3HW.to(device)), nothing)[1]
        return flags

    return check


def _unnested(name: str) -> str:
    """A parameter's name without its tower: files nest it twice or once, transformers as its version has it."""
    return name.replace("vision_model.", "")
