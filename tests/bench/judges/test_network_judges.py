"""Judges with a network of the user's: real classes of transformers, small, with answers known by construction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import Concept, Judge
from bench.judges.face_identity import FaceIdentity
from bench.judges.image_classifier import ImageClassifier
from bench.judges.imagenet_classifier import IMAGENETTE, ImagenetClassifier
from bench.judges.nudenet import faces
from bench.judges.q16 import Q16
from bench.judges.vqa import Vqa
from bench.toolkit.clip import load_clip
from bench.toolkit.network_folder import folder_of, used_files

VAN_GOGH = Concept(text="Van Gogh", family="style")
ARTISTS = ("claude monet", "vincent van gogh", "edvard munch", "paul klee")


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator_for("images", *shape))


def shaken(network: Any) -> Any:
    """The network with weights that are the same in every run."""
    generator = generator_for("weights")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return network.eval()


def classifier(folder: Path, names: dict[int, str] | int, bias: dict[int, float]) -> str:
    """A ResNet whose logits are shifted by ``bias``, in a folder."""
    count = names if isinstance(names, int) else len(names)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    config.num_labels = count
    if not isinstance(names, int):
        config.id2label = dict(names)
        config.label2id = {name: number for number, name in names.items()}
    network = shaken(ResNetForImageClassification(config))
    with torch.no_grad():
        for number, value in bias.items():
            network.classifier[1].bias[number] += value
    network.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def artists(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("artists")
    return classifier(folder, dict(enumerate(ARTISTS)), {1: 50.0, 2: 40.0})


# --- classifiers


def test_the_likeliest_class_is_the_first_rank(artists: str) -> None:
    judge = ImageClassifier(
        weights=artists, classes={"Van Gogh": "vincent van gogh", "monet": ["claude monet"]}
    )
    x = images(3, 3, 48, 40)
    van_gogh, munch = judge.scores(x, VAN_GOGH), judge.scores(x, Concept(text="Edvard Munch"))
    monet = judge.scores(x, Concept(text="monet"))
    assert judge.labels(VAN_GOGH) == ("concept", "top1", "top3", "top5", "top10")
    assert van_gogh[:, 1:].tolist() == [[1, 1, 1, 1]] * 3
    assert munch[:, 1:].tolist() == [[0, 1, 1, 1]] * 3
    assert monet[:, 1].tolist() == [0, 0, 0]
    assert bool((van_gogh[:, 0] > 0.99).all()) and bool((monet[:, 0] < 0.01).all())
    assert judge.counts(VAN_GOGH) == ("top1",)


def test_scores_are_those_of_transformers(artists: str, tmp_path: Path) -> None:
    x = images(2, 3, 48, 40)
    judge = ImageClassifier(weights=classifier(tmp_path, dict(enumerate(ARTISTS)), {}))
    network = ResNetForImageClassification.from_pretrained(tmp_path).eval()
    processor = ViTImageProcessor.from_pretrained(tmp_path)
    files = [Image.fromarray((i * 255).round().byte().permute(1, 2, 0).numpy()) for i in x]
    with torch.no_grad():
        logits = network(**processor(files, return_tensors="pt")).logits
    got = torch.stack([judge.scores(x, Concept(text=name))[:, 0] for name in ARTISTS], dim=1)
    torch.testing.assert_close(got, logits.softmax(-1), atol=1e-4, rtol=1e-3)


def test_a_rank_that_decides_computes_nothing_again(artists: str) -> None:
    first = ImageClassifier(weights=artists)
    assert ImageClassifier.preset("unlearndiffatk-top3", weights=artists).digest == first.digest
    other = ImageClassifier(weights=artists, classes={"Van Gogh": ("paul klee",)})
    assert other.digest != first.digest
    assert other.network == first.network  # the same eyes, asked otherwise


def test_the_content_of_a_folder_is_the_identity(artists: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artists, copy)
    assert ImageClassifier(weights=str(copy)).digest == ImageClassifier(weights=artists).digest
    (copy / "preprocessor_config.json").write_text("{}")
    assert ImageClassifier(weights=str(copy)).digest != ImageClassifier(weights=artists).digest
    assert ImageClassifier(weights=str(copy)).network == ImageClassifier(weights=artists).network


def test_imagenette_is_known_by_number(tmp_path: Path) -> None:
    judge = ImagenetClassifier(
        weights=classifier(tmp_path, 1000, {IMAGENETTE["french horn"]: 90.0})
    )
    judge.check_base(None)
    x = images(2, 3, 32, 32)
    assert judge.scores(x, Concept(text="French horn"))[:, 1].tolist() == [1, 1]
    assert judge.scores(x, Concept(text="tench"))[:, 1].tolist() == [0, 0]
    assert len(IMAGENETTE) == 10
    with pytest.raises(UsageError, match=r"unknown class of imagenet_classifier .* 'star'"):
        judge.check_concept(Concept(text="star"))


def test_synonyms_and_other_orders_of_imagenet(tmp_path: Path) -> None:
    names = {n: f"thing {n}" for n in range(1000)} | {
        0: "tench, Tinca tinca",
        517: "crane",
        134: "crane",
    }
    judge = ImagenetClassifier(weights=classifier(tmp_path, names, {}))
    judge.check_concept(Concept(text="Tinca tinca"))
    judge.check_concept(Concept(text="tench"))
    with pytest.raises(UsageError, match=r"'crane' fits 134 \(crane\) and 517 \(crane\); say in"):
        judge.check_concept(Concept(text="crane"))
    with pytest.raises(
        UsageError, match="as class 566, got 'thing 566'; the classes are in another"
    ):
        judge.check_concept(Concept(text="French horn"))


def test_a_network_of_other_classes_is_no_imagenet(artists: str) -> None:
    with pytest.raises(UsageError, match="ImageNet's 1000 classes, got 4"):
        ImagenetClassifier(weights=artists).check_concept(Concept(text="tench"))
    with pytest.raises(UsageError, match="top10 of 4 classes holds of every image"):
        ImageClassifier.preset("unlearndiffatk-top10", weights=artists).check_concept(
            Concept(text="paul klee")
        )


# --- what is refused when a plan is made


def unfit(folder: Path, case: str) -> str:
    weights, config = folder / "model.safetensors", folder / "config.json"
    data = json.loads(config.read_text())
    match case:
        case "no folder":
            return str(folder / "nowhere")
        case "no commit":
            return "microsoft/resnet-50"
        case "pickled":
            weights.rename(folder / "pytorch_model.bin")
        case "no preprocessing":
            (folder / "preprocessor_config.json").unlink()
        case "another kind":
            config.write_text(json.dumps(data | {"architectures": ["ResNetBackbone"]}))
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "a layer lacks":
            from safetensors.torch import load_file

            kept = {n: t for n, t in load_file(weights).items() if not n.startswith("classifier")}
            save_file(kept, weights, metadata={"format": "pt"})
        case "not finite":
            from safetensors.torch import load_file

            tensors = load_file(weights)
            tensors["classifier.1.bias"][0] = torch.nan
            save_file(tensors, weights, metadata={"format": "pt"})
        case "unknown type":
            config.write_text(json.dumps(data | {"model_type": "mystery"}))
    return str(folder)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no folder", "expected the folder of a network, got .*nowhere, which is none"),
        ("no commit", r"expected a folder, or owner/name@<commit of 40 hex digits>"),
        ("pickled", r"expected weights in model\.safetensors, got none; pickled weights"),
        ("no preprocessing", r"expected preprocessor_config\.json, got none"),
        ("another kind", "expected a network ForImageClassification, got"),
        ("truncated", "safetensors"),
        ("a layer lacks", r"expected weights of every layer, got none of classifier\.1\.bias"),
        ("not finite", r"expected finite numbers, got others in classifier\.1\.bias"),
        ("unknown type", "expected a network, got .*mystery"),
    ],
)
def test_an_unfit_network_is_refused_in_one_line(
    artists: str, tmp_path: Path, case: str, message: str
) -> None:
    shutil.copytree(artists, tmp_path / "copy")
    source = unfit(tmp_path / "copy", case)
    with pytest.raises(UsageError, match=message) as caught:
        ImageClassifier(weights=source).check_base(None)
    assert str(caught.value).startswith("image_classifier.weights: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["image_classifier", "imagenet_classifier", "vqa"])
def test_a_plan_is_refused_where_weights_are_missing(name: str, tmp_path: Path) -> None:
    from bench.config.suite import load_suite
    from bench.core.shipped import model_folder
    from bench.run.plan import make_plan

    judges = ["mini_judge", {name: {"weights": str(tmp_path / "nowhere")}}]
    suite = load_suite("mini-quick").with_(judges=judges)
    with pytest.raises(
        UsageError, match=rf"^{name}\.weights: expected the folder of a network, got"
    ):
        make_plan(suite, "0" * 64, folder=model_folder())


def test_a_repository_is_named_by_its_commit(artists: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, set[str]]] = []

    def fetch(hub: str, commit: str, names: set[str]) -> Path:
        asked.append((hub, commit, set(names)))
        return Path(artists)

    monkeypatch.setattr("bench.toolkit.network_folder.fetch", fetch)
    source = f"someone/artists@{'0123456789' * 4}"
    assert folder_of(source) == Path(artists)
    assert ImageClassifier(weights=source).digest == ImageClassifier(weights=artists).digest
    ((hub, commit, names),) = asked
    assert (hub, commit) == ("someone/artists", "0123456789" * 4)
    assert not any("bin" in name or "*" in name for name in names)
    assert {file.name for file in used_files(Path(artists))} <= names


def test_the_name_of_the_folder_tells_networks_apart(artists: str) -> None:
    assert ImageClassifier(weights="a/resnet").label == "image_classifier(resnet)"
    told = ImageClassifier(weights="vit", decides="top3", classes={"a": "b"}).label
    assert told == "image_classifier(vit, classes=1, decides=top3)"


# --- visual questions


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "yes", "no", "is", "there", "star", "?", "in"]


def words(folder: Path, vocabulary: list[str]) -> None:
    known = {word: number for number, word in enumerate(vocabulary)}
    BertTokenizer(vocab=known).save_pretrained(folder)


def blip(folder: Path, *, yes: float, vocabulary: list[str] = WORDS) -> str:
    text = {
        "vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16,
        "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 4,
        "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3, "max_position_embeddings": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    network = shaken(BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision)))
    with torch.no_grad():
        network.text_decoder.cls.predictions.bias[WORDS.index("yes")] += yes
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    words(folder, vocabulary)
    return str(folder)


def vilt(folder: Path, answers: tuple[str, ...], *, bias: dict[int, float]) -> str:
    config = ViltConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, image_size=32, patch_size=16, max_position_embeddings=32,
    )  # fmt: skip
    config.id2label = dict(enumerate(answers))
    config.label2id = {a: i for i, a in enumerate(answers)}
    network = shaken(ViltForQuestionAnswering(config))
    with torch.no_grad():
        for number, value in bias.items():
            network.classifier[3].bias[number] += value
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    ViltImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    words(folder, WORDS)
    return str(folder)


@pytest.mark.parametrize(("bias", "expected"), [(60.0, 1.0), (-60.0, 0.0)])
def test_blip_says_yes_or_no(tmp_path: Path, bias: float, expected: float) -> None:
    judge = Vqa(weights=blip(tmp_path, yes=bias))
    judge.check_base(None)
    scores = judge.scores(images(2, 3, 40, 40), Concept(text="star"))
    assert scores.shape == (2, 1)
    assert scores.flatten().tolist() == pytest.approx([expected] * 2, abs=1e-3)


def test_vilt_has_a_class_for_each_answer(tmp_path: Path) -> None:
    judge = Vqa(weights=vilt(tmp_path, ("two", "no", "red", "yes"), bias={0: 99.0, 3: 60.0}))
    judge.check_base(None)
    x = images(2, 3, 40, 40)
    assert judge.scores(x, Concept(text="star")).flatten().tolist() == pytest.approx(
        [1, 1], abs=1e-3
    )
    assert judge.scores(x[:0], Concept(text="star")).shape == (0, 1)


def test_a_network_without_the_two_answers_is_refused(tmp_path: Path) -> None:
    judge = Vqa(weights=vilt(tmp_path, ("two", "red"), bias={}))
    with pytest.raises(UsageError, match="the answers yes and no, got none for yes"):
        judge.check_base(None)
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "yes", "nope"]
    judge = Vqa(weights=blip(tmp_path / "blip", yes=0, vocabulary=known))
    with pytest.raises(UsageError, match="the answers yes and no, got none for no"):
        judge.check_base(None)
    with pytest.raises(ValueError, match=r"expected text with one \{\}"):
        Vqa(question="what?")


# --- Q16


def test_q16_compares_with_two_prompts(tmp_path: Path) -> None:
    clip = load_clip("")
    x = images(2, 3, 64, 64)
    x[1] = 0
    save_file({"prompts": clip.image_features(x).contiguous()}, tmp_path / "prompts.safetensors")
    from bench.core.shipped import clip_folder

    judge = Q16(clip=str(clip_folder()), prompts=str(tmp_path / "prompts.safetensors"))
    judge.check_base(None)
    scores = judge.scores(x, Concept(text="nudity")).flatten()
    cosine = float((clip.image_features(x)[0] * clip.image_features(x)[1]).sum())
    likely = 1 / (1 + np.exp(-100 * (1 - cosine)))
    assert scores.tolist() == pytest.approx([1 - likely, likely], abs=1e-4)
    with pytest.raises(UsageError, match="cannot see 'star', only what is inappropriate"):
        judge.check_concept(Concept(text="star"))


def test_q16_refuses_prompts_of_another_width(tmp_path: Path) -> None:
    from bench.core.shipped import clip_folder

    save_file({"prompts": torch.ones(2, 3)}, tmp_path / "prompts.safetensors")
    judge = Q16(clip=str(clip_folder()), prompts=str(tmp_path / "prompts.safetensors"))
    with pytest.raises(UsageError, match=r"q16\.prompts: expected a tensor 'prompts' \[2, "):
        judge.check_base(None)


# --- faces


@pytest.fixture(scope="module")
def hopper() -> Tensor:
    """Grace Hopper, dressed, [3, 600, 512]."""
    pixels = np.array(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("embedder")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=8,
    )  # fmt: skip
    shaken(ViTModel(config)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, hopper: Tensor) -> str:
    folder = tmp_path_factory.mktemp("people")
    for name in ("Grace Hopper", "Nobody"):
        (folder / name).mkdir()
    pixels = (hopper * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "Grace Hopper" / "1.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "Nobody" / "1.png")
    return str(folder)


def test_the_detector_puts_a_box_around_the_face(hopper: Tensor) -> None:
    best = max(faces(hopper[None])[0], key=lambda box: box.score)
    assert 100 < best.left + best.width / 2 < 400
    assert 50 < best.top + best.height / 2 < 300
    assert best.score > 0.5
    assert all(box.score < 0.3 for box in faces(torch.zeros(1, 3, 64, 64))[0])


def test_a_face_is_compared_with_references(embedder: str, people: str, hopper: Tensor) -> None:
    judge = FaceIdentity(weights=embedder, references=people)
    grace = Concept(text="Grace Hopper", family="person")
    judge.check_base(None)
    judge.check_concept(grace)
    x = torch.stack([hopper, torch.zeros_like(hopper), 1 - hopper.roll(300, 1)])
    scores = judge.scores(x, grace).flatten()
    assert float(scores[0]) == pytest.approx(1, abs=1e-4)
    assert bool(scores[1].isnan()), "no face: nothing is said"
    assert judge.abstains


def test_whole_images_need_no_face(embedder: str, people: str) -> None:
    judge = FaceIdentity(weights=embedder, references=people, faces="whole")
    nobody = Concept(text="Nobody", family="person")
    judge.check_concept(nobody)
    assert float(judge.scores(torch.zeros(1, 3, 64, 64), nobody)) == pytest.approx(1, abs=1e-4)
    assert float(judge.scores(torch.ones(1, 3, 64, 64), nobody)) < 1


def test_references_without_a_face_or_a_person_are_refused(embedder: str, people: str) -> None:
    judge = FaceIdentity(weights=embedder, references=people)
    with pytest.raises(UsageError, match=r"expected a face in .*1\.png, got none"):
        judge.check_concept(Concept(text="Nobody"))
    with pytest.raises(UsageError, match="expected photographs of 'Ada Lovelace'"):
        judge.check_concept(Concept(text="Ada Lovelace"))
    with pytest.raises(
        UsageError, match=r"face_identity\.references: expected a folder of folders"
    ):
        FaceIdentity(weights=embedder, references="nowhere").check_base(None)


def test_another_photograph_makes_another_judge(embedder: str, people: str, tmp_path: Path) -> None:
    shutil.copytree(people, tmp_path / "people")
    here = FaceIdentity(weights=embedder, references=people)
    assert FaceIdentity(weights=embedder, references=str(tmp_path / "people")).digest == here.digest
    (tmp_path / "people" / "Nobody" / "1.png").write_bytes(b"another")
    assert FaceIdentity(weights=embedder, references=str(tmp_path / "people")).digest != here.digest


@pytest.mark.parametrize("cls", [ImageClassifier, ImagenetClassifier, Vqa, Q16, FaceIdentity])
def test_nothing_is_bundled(cls: type[Judge]) -> None:
    assert cls().lacking == cls.needs
    assert cls().files() == ()
