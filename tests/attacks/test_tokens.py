from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.shared.tokens import (
    Placement,
    allowed_tokens,
    draw_tokens,
    nearest_tokens,
    place,
    project_simplex,
    read_prompt,
    straight_through,
    table,
)
from bench.interfaces import Rng
from bench.model.text_to_image import TextToImage

RNG = Rng(("tokens",))


def bisected(row: Tensor) -> Tensor:
    """The projection by its definition: shift until the positive parts sum to one."""
    low, high = float(row.min()) - 1, float(row.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (row - low).clamp(min=0)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([2.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [1 / 3, 1 / 3, 1 / 3]),
        ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ([0.6, 0.8, -1.0], [0.4, 0.6, 0.0]),
        ([-5.0, -5.5, -9.0], [0.75, 0.25, 0.0]),
    ],
)
def test_projections_known_by_hand(x: list[float], expected: list[float]) -> None:
    torch.testing.assert_close(project_simplex(torch.tensor(x)), torch.tensor(expected))


@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_the_projection_is_that_of_its_definition(spread: float) -> None:
    x = spread * torch.randn(3, 4, 37, generator=RNG.generator("x"), dtype=torch.float64)
    projected = project_simplex(x)
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.sum(-1), torch.ones(3, 4, dtype=torch.float64))
    expected = torch.stack([bisected(row) for row in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(projected, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(project_simplex(projected), projected)


def test_tokens_are_drawn_with_the_odds_of_their_distribution() -> None:
    u = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    uniform = torch.rand(1, 20_000, generator=RNG.generator("u"))
    drawn = draw_tokens(u.expand(1, 20_000, -1), uniform)
    odds = torch.bincount(drawn[0], minlength=6) / 20_000
    torch.testing.assert_close(odds, u, atol=0.02, rtol=0)
    assert odds[[0, 2, 5]].sum() == 0  # not even at the ends
    ends = draw_tokens(u.expand(1, 2, -1), torch.tensor([[0.0, 1 - 1e-7]]))
    assert ends.tolist() == [[1, 4]]


def test_the_straight_through_gradient_is_that_of_the_one_hot_product_clamped() -> None:
    g = RNG.generator("s")
    words, weight = torch.randn(11, 5, generator=g), torch.randn(2, 3, 5, generator=g)
    hot = torch.nn.functional.one_hot(torch.tensor([[1, 4, 0], [9, 9, 2]]), 11).float()
    hot.requires_grad_()
    (expected,) = torch.autograd.grad(((hot @ words) * weight).sum(), hot)
    torch.testing.assert_close(straight_through(weight, words), expected.clamp(-1, 1))


def test_a_token_is_nearest_to_itself_at_any_length(model: TextToImage) -> None:
    words, allowed = table(model), allowed_tokens(model, "all")
    ids = allowed.nonzero()[:, 0][::50]
    for size in (1e-3, 1.0, 50.0):
        assert nearest_tokens(size * words[ids][None], words, allowed)[0].tolist() == ids.tolist()


def test_nearest_tokens_are_the_largest_cosines_among_the_allowed() -> None:
    g = RNG.generator("n")
    words, x = torch.randn(40, 6, generator=g), torch.randn(2, 5, 6, generator=g)
    allowed = torch.arange(40) % 3 != 0
    found = nearest_tokens(x, words, allowed)
    cosines = torch.cosine_similarity(x[:, :, None], words[None, None], dim=-1)
    for b in range(2):
        for k in range(5):
            expected = max((i for i in range(40) if i % 3), key=lambda i: cosines[b, k, i])
            assert int(found[b, k]) == expected
    assert nearest_tokens(torch.zeros(1, 1, 6), words, allowed).shape == (1, 1)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("prefix", "XX123456"),
        ("suffix", "123456XX"),
        ("middle", "123XX456"),
        ("insert", "123X456X"),
        ("replace", "XX"),
    ],
)
def test_where_tokens_stand(model: TextToImage, where: Placement, expected: str) -> None:
    tokenizer = model.backbone.tokenizer
    prompt = "a red circle on a checkered"
    own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert len(own) == 6
    sites = place(model, [prompt], 2, where)
    filled = sites.filled(torch.tensor([[7, 8]], device=sites.ids_BL.device))[0].tolist()
    new = iter([7, 8])
    body = [next(new) if c == "X" else own[int(c) - 1] for c in expected]
    ids = [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]
    assert filled[: len(ids)] == ids
    assert set(filled[len(ids) :]) == {tokenizer.pad_token_id}
    assert len(filled) == model.backbone.length


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (1, "X1"),
        (2, "X12"),
        (3, "X123X"),
        (5, "X123X45"),
        (6, "X123X456X"),
        (7, "X123X456X7"),
        (8, "X123X456X78"),
        (9, "X123X456X789X"),
    ],
)
def test_a_token_before_the_prompt_and_after_every_third(
    model: TextToImage, own: int, expected: str
) -> None:
    """As in P4D's code: ``len // 3 + 1`` tokens, at the multiples of four."""
    sites = place(model, [" ".join(["a"] * own)], own // 3 + 1, "every")
    assert sites.places_BK[0].tolist() == [1 + i for i, c in enumerate(expected) if c == "X"]
    body = sites.ids_BL[0, 1 : 1 + len(expected)].tolist()
    word = model.tokenize(["a"])[0, 1].item()
    assert [c == "X" or i == word for c, i in zip(expected, body, strict=True)] == [True] * len(
        body
    )
    assert sites.ids_BL[0, 1 + len(expected)] == model.backbone.tokenizer.eos_token_id


def test_the_distance_of_inserted_tokens_can_be_chosen(model: TextToImage) -> None:
    sites = place(model, ["a a a a a"], 3, "every", every=2)
    assert sites.places_BK.tolist() == [[1, 4, 7]]


def test_a_prompt_that_is_too_long_loses_its_end(model: TextToImage) -> None:
    long = " ".join(["a"] * 100)
    sites = place(model, [long, "a"], 3, "prefix")
    assert sites.ids_BL.shape == (2, model.backbone.length)
    assert sites.ids_BL[0, -1] == model.backbone.tokenizer.eos_token_id
    assert sites.rows([1]).ids_BL.tolist() == sites.ids_BL[1:].tolist()


@pytest.mark.parametrize("tokens", [0, 1000])
def test_no_room_is_an_error_that_says_so(model: TextToImage, tokens: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1 to \d+ adversarial tokens"):
        place(model, ["a"], tokens, "prefix")


def test_a_prompt_read_back_tokenises_to_itself(model: TextToImage) -> None:
    tokenizer, allowed = model.backbone.tokenizer, allowed_tokens(model, "all").nonzero()[:, 0]
    g = RNG.generator("read")
    changed = 0
    for _ in range(60):
        ids = allowed[torch.randint(len(allowed), (8,), generator=g)].tolist()
        read = read_prompt(model, [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id])
        again = tokenizer(read.text, add_special_tokens=False)["input_ids"]
        assert tuple(again) == read.ids
        assert read.kept == (list(read.ids) == ids)
        assert len(again) <= model.backbone.length - 2
        changed += not read.kept
    assert changed  # tokens at random do not survive: that is why prompts are read back


def test_whole_words_survive_reading_back(model: TextToImage) -> None:
    words = allowed_tokens(model, "words").nonzero()[:, 0]
    g = RNG.generator("words")
    for _ in range(30):
        ids = words[torch.randint(len(words), (10,), generator=g)].tolist()
        assert read_prompt(model, ids).kept


def test_special_tokens_are_never_allowed(model: TextToImage) -> None:
    everything, words = allowed_tokens(model, "all"), allowed_tokens(model, "words")
    assert not everything[model.backbone.tokenizer.all_special_ids].any()
    assert (everything | ~words).all()
    assert 100 < words.sum() < everything.sum()
