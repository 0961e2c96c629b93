from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from nudenet import NudeDetector, nudenet
from PIL import Image
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept
from bench.judges import nudenet as nudenet_judge
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.judges.mini import MiniJudge
from bench.judges.nudenet import LABEL_SETS, LABELS, NudeNetJudge
from bench.mini.captions import corpus
from bench.mini.tokenizer import train_tokenizer
from bench.mini.train.clip import new_clip
from bench.mini.world import HEADS
from bench.toolkit.clip import load_clip
from bench.toolkit.judge_net import JudgeNet, load_judge, save_judge

STAR = Concept(text="star", neighbours=("flower", "cross"))
NUDITY = Concept(text="nudity", family="nudity")


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator_for("images", *shape))


def shake(network: torch.nn.Module) -> None:
    """Moves every weight, by the same amounts in every run."""
    generator = generator_for("weights")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))


# --- the miniature's


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> MiniJudge:
    folder = tmp_path_factory.mktemp("judge")
    net = JudgeNet(HEADS)
    shake(net)
    save_judge(net, folder)
    return MiniJudge(folder=str(folder))


def test_mini_scores_are_the_classes_probabilities(judge: MiniJudge) -> None:
    x, net = images(4, 3, 64, 64), load_judge(Path(judge.folder))
    with torch.no_grad():
        logits = net(x)
    for head, classes in HEADS.items():
        columns = [judge.scores(x, Concept(text=name, family=head)) for name in classes]
        assert all(column.shape == (4, 1) for column in columns)
        expected = logits[head].softmax(-1)[:, :-1]
        torch.testing.assert_close(torch.cat(columns, dim=1), expected)
    assert {h: x.tolist() for h, x in judge.predict(x).items()} == {
        h: x.argmax(-1).tolist() for h, x in logits.items()
    }


def test_mini_head_wins_over_the_family(judge: MiniJudge) -> None:
    x = images(2, 3, 64, 64)
    asked = judge.scores(x, Concept(text="sketch", family="art", head="style"))
    assert torch.equal(asked, judge.scores(x, Concept(text="sketch", family="style")))


def test_mini_rows_do_not_depend_on_the_batch(judge: MiniJudge) -> None:
    x = images(260, 3, 64, 64)
    together, predicted = judge.scores(x, STAR), judge.predict(x)
    assert together.shape == (260, 1)
    assert {len(rows) for rows in predicted.values()} == {260}
    for row in (0, 255, 256, 259):
        torch.testing.assert_close(together[row], judge.scores(x[row : row + 1], STAR)[0])


def test_mini_empty_batch(judge: MiniJudge) -> None:
    assert judge.scores(images(0, 3, 64, 64), STAR).shape == (0, 1)
    assert {rows.dtype for rows in judge.predict(images(0, 3, 64, 64)).values()} == {torch.int64}


def test_mini_leaves_the_global_generator(tmp_path: Path) -> None:
    save_judge(JudgeNet({"object": ("star",)}), tmp_path)
    before = torch.get_rng_state()
    MiniJudge(folder=str(tmp_path)).scores(images(1, 3, 64, 64), STAR)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (
            Concept(text="star", family="objects"),
            r"unknown head .*'objects'; did you mean 'object'",
        ),
        (Concept(text="stars"), r"unknown class .*'stars'; did you mean 'star'\? known: arrow,"),
        (Concept(text="qqq", family="style"), r"unknown class .*'qqq'; known: .*watercolour$"),
    ],
)
def test_mini_names_what_it_knows(judge: MiniJudge, concept: Concept, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge.scores(images(1, 3, 64, 64), concept)


def test_mini_refuses_other_sizes(judge: MiniJudge) -> None:
    with pytest.raises(ValueError, match=r"expected images \[B, 3, 64, 64\]"):
        judge.scores(images(1, 3, 32, 32), STAR)


# --- NudeNet


@pytest.fixture(scope="module")
def hopper() -> Tensor:
    """Grace Hopper, dressed, [1, 3, 600, 512]."""
    path = get_sample_data("grace_hopper.jpg", asfileobj=False)
    pixels = torch.from_numpy(np.array(Image.open(path)))
    return pixels.permute(2, 0, 1)[None].float() / 255


def test_nudenet_labels_are_the_packages() -> None:
    assert getattr(nudenet, "__labels") == list(LABELS)
    assert NudeNetJudge().labels(NUDITY) == LABELS


def test_nudenet_label_sets() -> None:
    assert {name: len(labels) for name, labels in LABEL_SETS.items()} == {
        "nudity_6": 6,
        "nudity_8": 8,
        "nudity_9": 9,
        "faces": 2,
    }
    assert set(LABEL_SETS["nudity_6"]) < set(LABEL_SETS["nudity_9"])
    assert set(LABEL_SETS["nudity_9"]) - set(LABEL_SETS["nudity_8"]) == {"ANUS_EXPOSED"}
    for preset in NudeNetJudge.presets:  # thresholds and labels alone: the scores are the same
        assert NudeNetJudge.preset(preset).identity() == NudeNetJudge().identity()
    for name, labels in LABEL_SETS.items():
        assert NudeNetJudge(label_set=name).counts(NUDITY) == labels
        assert set(labels) <= set(LABELS)
    with pytest.raises(ValueError, match="nudity_6"):
        NudeNetJudge.model_validate({"label_set": "nudity"})


def test_nudenet_sees_a_face_and_no_nudity(hopper: Tensor) -> None:
    scores = dict(zip(LABELS, NudeNetJudge().scores(hopper, NUDITY)[0].tolist(), strict=True))
    assert max(scores[label] for label in LABEL_SETS["faces"]) > 0.5
    assert max(scores[label] for label in LABEL_SETS["nudity_9"]) < 0.2


@pytest.mark.parametrize("crop", [(600, 512), (400, 512), (330, 330)])
def test_nudenet_agrees_with_the_package(hopper: Tensor, crop: tuple[int, int]) -> None:
    x = hopper[..., : crop[0], : crop[1]]
    pixels = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
    found = NudeDetector().detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    scores = dict(zip(LABELS, NudeNetJudge().scores(x, NUDITY)[0].tolist(), strict=True))
    assert {label for label, score in scores.items() if score >= 0.2} == {f["class"] for f in found}
    for one in found:
        assert scores[one["class"]] == pytest.approx(one["score"], abs=0.02)


def test_nudenet_rows_do_not_depend_on_the_batch(hopper: Tensor) -> None:
    x = torch.cat([images(16, 3, 600, 512), hopper, hopper.flip(3)])
    together = NudeNetJudge().scores(x, NUDITY)
    assert together.shape == (18, 18)
    assert 0 <= together.min() and together.max() <= 1
    for row in (0, 15, 16, 17):
        torch.testing.assert_close(
            together[row], NudeNetJudge().scores(x[row : row + 1], NUDITY)[0], atol=1e-4, rtol=1e-3
        )


def test_nudenet_empty_batch_and_wrong_shape() -> None:
    assert NudeNetJudge().scores(images(0, 3, 64, 64), NUDITY).shape == (0, 18)
    with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\], got \[3, 64, 64\]"):
        NudeNetJudge().scores(images(3, 64, 64), NUDITY)


def test_nudenet_refuses_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudenet_judge, "_SHA256", "0" * 64)
    nudenet_judge._session.cache_clear()
    with pytest.raises(ValueError, match=r"expected the weights of nudenet 3\.4\.2"):
        NudeNetJudge().scores(images(1, 3, 64, 64), NUDITY)


# --- CLIP, zero-shot


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    network = new_clip(train_tokenizer(corpus(), folder, merges=100, length=16))
    shake(network)
    network.save_pretrained(folder)
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(half))
    return str(folder)


def test_zero_shot_is_a_softmax_over_the_texts(clip: str) -> None:
    x, texts = images(3, 3, 64, 64), ("star", "fish", "moon")
    judges = [
        ClipZeroShot(clip=clip, template="a {}", alternatives=tuple(t for t in texts if t != text))
        for text in texts
    ]
    scores = [j.scores(x, Concept(text=text)) for j, text in zip(judges, texts, strict=True)]
    towers = load_clip(clip)
    cosines = towers.image_features(x) @ towers.text_features([f"a {t}" for t in texts]).T
    expected = (towers.logit_scale * cosines).softmax(-1)
    torch.testing.assert_close(torch.cat(scores, dim=1), expected)
    torch.testing.assert_close(torch.cat(scores, dim=1).sum(1), torch.ones(3))


def test_zero_shot_alternatives() -> None:
    assert ClipZeroShot().texts(STAR) == ("star", "flower", "cross", "something")
    assert ClipZeroShot().texts(Concept(text="star")) == ("star", "something")
    own = ClipZeroShot(alternatives=("a", "star", "a"), template="one {}!")
    assert own.texts(STAR) == ("one star!", "one a!")
    with pytest.raises(ValueError, match="expected alternatives to 'star', got only itself"):
        ClipZeroShot(alternatives=("star",)).texts(STAR)


def test_zero_shot_rows_do_not_depend_on_the_batch(clip: str) -> None:
    x, judge = images(5, 3, 96, 96), ClipZeroShot(clip=clip)
    rows = torch.cat([judge.scores(row[None], STAR) for row in x])
    torch.testing.assert_close(judge.scores(x, STAR), rows)


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_zero_shot_template_has_one_place(template: str) -> None:
    with pytest.raises(ValueError, match=r"expected text with one \{\}"):
        ClipZeroShot(template=template)


def test_the_names_of_the_judges() -> None:
    judges = (MiniJudge(), NudeNetJudge(), ClipZeroShot())
    assert [judge.name for judge in judges] == ["mini_judge", "nudenet", "clip_zero_shot"]
    assert judges[0].counts(STAR) == judges[0].labels(STAR) == ("concept",)


@pytest.mark.parametrize("kind", ["mini", "clip"])
def test_other_weights_make_another_judge(judge: MiniJudge, tmp_path: Path, kind: str) -> None:
    def digest() -> str:
        return (
            MiniJudge(folder=str(tmp_path)) if kind == "mini" else ClipZeroShot(clip=str(tmp_path))
        ).digest

    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    before = digest()
    assert digest() == before
    file.write_bytes(b"another")
    assert digest() != before
    file.unlink()
    assert digest() != before
