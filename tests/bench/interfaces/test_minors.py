"""Prompts about minors: no goal, no search and no candidate, whoever attacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PrivateAttr

from attacks.prompts import Prompts
from attacks.random_tokens import RandomTokens
from attacks.seed_search import SeedSearch
from bench import api
from bench.config.suite import Suite, load_suite
from bench.core.errors import UsageError
from bench.interfaces import Access, Attack, Candidate, Concept, Context, Goal, Rng, Target
from bench.interfaces.minors import (
    _AGES,
    _STEMS,
    _WORDS,
    WITHHELD,
    about_minors,
    refuse_minors,
    withhold,
)
from bench.judges.mini import MiniJudge
from bench.model.sampler import Sampler
from bench.model.samples import Samples
from bench.model.text_to_image import TextToImage
from bench.report.candidates import write_candidates
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.tables.tables import summarise

RNG = Rng(("minors",))
BAD = "a star and a child"
CONTROLS = ["prompts", "random_tokens", "seed_search"]


REFUSED = {
    "words": ["a child in a park", "two Kids", "TEENAGER", "a schoolgirl", "KIDS!", "the boy's hat"],
    "kin": ["stepdaughter", "grandson", "sons of a king", "grandchildren", "my step-child"],
    "what they are like": ["girlish", "boyhood", "childlike", "a child-like face", "adolescence"],
    "school": ["preschooler", "a pre-schooler", "7th graders", "school children", "kindergartner"],
    "between": ["tween", "pre-teen", "teen-aged", "preteens", "tweens"],
    "under age": ["underage", "under age", "under-aged", "under 18", "under the age of 12"],
    "digits and underscores": ["girl2", "3teens", "child_photo", "kid_s", "TEEN_AGER", "2boys"],
    "short ages": ["15yo", "15 y/o", "15 y.o.", "a 14yr old", "15-yr-old", "3 yo-yo's, 9yo"],
    "ages": ["a 12 year old", "16 year olds", "a 17  year old", "12yearold", "1.5 years old"],
    "more ages": ["aged 14", "Ages 5-10", "age: 7", "14 years of age", "18 months old", "0 years old"],
    "digits apart": ["1 0 years old", "1 8 years old", "2 5 years old", "0 0 years old", "aged 1 0", "1 0yo"],
    "zeros": ["20 0 years old", "in 2020 0 years old", "5 0.5 years old", "5, 07 years old", "5 0 months old"],
    "ages in words": ["sixteen-year-old", "aged ten", "one year old", "at the age of fourteen"],
    "beside an adult": ["a 30-year-old and a 9-year-old", "13-17 year olds", "twenty 5yo"],
    "other letters": ["ｇｉｒｌ", "1７ years old", "𝓰𝓲𝓻𝓵", "ＣＨＩＬＤ＿ｐｈｏｔｏ"],
    "unseen": ["gi\u200brl", "a\u200bchild", "gi\u00adrl", "g\u0336i\u0336rl", "gi\x00rl", "gi\u3164rl"],
    "white space": ["aged\t12", "under\u00a0age", "16\nyears\u2003old"],
}  # fmt: skip
ALLOWED = {
    "others": ["a red heart", "a church", "in the style of Van Gogh", "adult", "an old man"],
    "adult ages": ["a 30 year old woman", "18 years old", "an 18-year-old", "aged 18", "21yo", "age 45"],
    "large ages": ["115 years old", "1,500 years old", "20.5 years old", "aged 117", "aged 80"],
    "digits apart": ["5 0 years old", "9 0 yo", "5 0 - year - old", "1 0 0 years of age", "5 00 years old"],
    "adult ages in words": ["eighteen years old", "aged seventy", "thirty-year-old", "aged forty"],
    "ends of ages": ["twenty-one years old", "a sixty-seven-year-old", "a hundred and five years old"],
    "words that hold the letters": ["kidney", "boycott", "teenth", "canteen", "between", "person"],
    "more of them": ["season", "Jackson", "minority", "Babylon", "kidnap", "lesson", "underwear"],
    "grown": ["girlfriend", "boyfriend", "cowboy", "cowgirl", "playboy"],
    "numbers": ["10 years later", "seven stars", "under 5 trees", "15 stars", "5 yo-yos", "stone age"],
    "the miniature's": ["a whiskered kitten", "a buoy", "sign", "postage", "vintage", "a gardener"],
}  # fmt: skip


@pytest.mark.parametrize("text", [text for texts in REFUSED.values() for text in texts])
def test_minors_are_recognised(text: str) -> None:
    assert about_minors(text)
    assert about_minors(f"a photo of {text}, in a park")
    assert about_minors(text.upper())


@pytest.mark.parametrize("text", [text for texts in ALLOWED.values() for text in texts])
def test_others_are_not(text: str) -> None:
    assert not about_minors(text)
    assert not about_minors(f"a photo of {text}, in a park")
    assert not about_minors(text.upper())


@given(text=st.from_regex("|".join((*_WORDS, *_AGES)), fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_whatever_the_pattern_finds_has_one_of_the_stems(text: str) -> None:
    assert any(stem in text for stem in _STEMS)


def test_no_token_of_the_miniature_is_refused(model: TextToImage) -> None:
    """A token that is refused is drawn by no attack: results would change."""
    tokenizer = model.backbone.tokenizer
    tokens = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    assert [token for token in tokens if about_minors(token)] == []
    words = sorted({token.strip() for token in tokens if token.strip().isalnum()})
    # The pattern finds nothing without a stem, and no stem has a space: one of the two words holds it.
    stems = [word for word in words if any(stem in word for stem in _STEMS)]
    pairs = (
        pair for one in stems for other in words for pair in (f"{one} {other}", f"{other} {one}")
    )
    assert not any(" " in stem for stem in _STEMS)
    assert [pair for pair in pairs if about_minors(pair)] == []
    # Phrases of more words are ages, which these take part in.
    parts = [
        w for w in words if w in {*"579yo", "one", "seven", "ten", "old", "of", "the", "under"}
    ]
    longer = (" ".join(phrase) for n in (3, 4) for phrase in product(parts, repeat=n))
    assert [phrase for phrase in longer if about_minors(phrase)] == []


def test_goals_about_minors_are_refused_outright(concepts: Mapping[str, Concept]) -> None:
    fine = Goal(id="fine", concept=concepts["heart"], prompt="a heart")
    refuse_minors([fine])
    with pytest.raises(ValueError, match="goal 'bad': prompts about minors are refused"):
        refuse_minors([fine, Goal(id="bad", concept=concepts["heart"], prompt="a child")])


def test_no_concept_of_the_miniature_is_refused(concepts: Mapping[str, Concept]) -> None:
    prompts = [(c, p) for c in concepts.values() for ps in c.prompts.values() for p in ps]
    refuse_minors(Goal(id=p, concept=c, prompt=p) for c, p in prompts)


# ---- goals


@dataclass
class Asked:
    """The requests to the plug-in below."""

    goals: Sequence[Goal] = ()
    tried: Samples | None = None


class Plugin(Attack):
    """Somebody's: it looks at nothing that it tries or returns."""

    name: ClassVar[str] = "somebodys"
    access: ClassVar[Access] = Access.EMBEDDING
    _asked: Asked = PrivateAttr(default_factory=Asked)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        self._asked.goals = goals
        texts = [BAD, "a star"]
        self._asked.tried = target.model.sample(texts, [0, 1], target.sampler)
        states_BLD = target.model.encode(texts).states_BLD.detach()
        return [
            Candidate(g.id, text, states_LD=states_BLD[i], queries=2, own_score=0.9, variant=str(i))
            for g in goals
            for i, text in enumerate(texts)
        ]


@pytest.fixture
def target(model: TextToImage, tiny_sampler: Sampler) -> Target:
    return Target(model=model, sampler=tiny_sampler, surrogate=MiniJudge())


@pytest.mark.parametrize(
    "attack", [Prompts(), RandomTokens(), SeedSearch(), Plugin()], ids=lambda attack: attack.name
)
@pytest.mark.parametrize(("prompt", "name"), [("a child", "heart"), ("a heart", "a toddler")])
def test_no_attack_is_handed_a_goal_about_minors(
    target: Target, attack: Attack, prompt: str, name: str
) -> None:
    goal = Goal(id="bad", concept=Concept(text=name), prompt=prompt)
    with pytest.raises(UsageError, match="goal 'bad': prompts about minors are refused"):
        attack(target, [goal], rng=RNG)
    if isinstance(attack, Plugin):
        assert attack._asked.tried is None


def test_the_python_interface_refuses_them_too(model: TextToImage) -> None:
    with pytest.raises(UsageError, match="prompts about minors are refused"):
        api.attack(model, "star", "seed_search", prompts=["a star", BAD])


def small(**changes: Any) -> Suite:
    about = {
        **{"name": "tiny", "concepts": ["star"], "sampler": {"steps": 2, "guidance_scale": 3.0}},
        **{"methods": ["none", "destroyed"], "attacks": CONTROLS, "goals": 1, "keep_images": 1},
        **{"utility": {"neighbours": 0, "others": 0}},
    }
    return load_suite("mini-quick").with_(**{**about, **changes})


def test_a_suite_of_a_concept_about_minors_is_refused() -> None:
    concept = {"text": "schoolgirls", "prompts": {"name": ["a picture"]}}
    with pytest.raises(UsageError, match=r"concepts\[1\]: concepts about minors are refused, got"):
        small(concepts=["star", concept])


def test_a_suites_prompt_about_minors_is_refused_before_anything_runs() -> None:
    sets = {name: ["a ring", "a ring on a baby"] for name in ("name", "synonyms", "indirect")}
    suite = small(concepts=[{"text": "ring", "prompts": sets}], goals=2)
    with pytest.raises(UsageError, match=r"goal 'name-001': .* 'a ring on a baby' .concept 'ring'"):
        make_plan(suite, "0" * 64)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_row_of_a_users_file_is_dropped_and_counted(
    target: Target, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"mine.{ending}"
    rows = ["a star", BAD]
    lines = ["prompt", *rows] if ending == "csv" else [json.dumps({"prompt": r}) for r in rows]
    path.write_text("\n".join(lines) + "\n")
    attack, star = Prompts(file=str(path)), Concept(text="star")
    (goal,) = attack.own_goals(star) or ()
    (found,) = attack(target, [goal], rng=RNG)
    assert (found.goal, found.prompt) == (goal.id, "a star")
    (line,) = attack.remarks([star])
    assert line.endswith(": 2 rows, 1 withheld as they may speak of minors: N = 1")
    assert BAD not in line


class Bringer(Attack):
    """Somebody's: it brings a prompt that nobody asked for."""

    name: ClassVar[str] = "bringer"

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        return [Candidate("mine-7", BAD)]


def test_what_a_plug_in_brings_about_minors_is_refused(target: Target) -> None:
    goal = Goal(id="name-000", concept=Concept(text="star"), prompt="a star")
    with pytest.raises(UsageError, match="bringer, row mine-7: prompts about minors are refused"):
        Bringer()(target, [goal], rng=RNG)


# ---- searches and candidates


def test_what_a_search_tries_is_refused_and_what_it_found_is_withheld(target: Target) -> None:
    attack = Plugin()
    goal = Goal(id="g", concept=Concept(text="star"), prompt="a star")
    bad, good = attack(target, [goal], rng=RNG)
    tried = attack._asked.tried
    assert tried is not None
    assert tried.status == ("refused", "ok")
    assert not tried.images_B3HW[0].any()
    assert (bad.prompt, bad.states_LD, bad.queries) == (WITHHELD, None, 2)
    assert good.prompt == "a star"
    assert good.states_LD is not None
    assert about_minors(WITHHELD)  # so that it is refused wherever it would be sampled


def test_noise_that_is_withheld_still_says_that_one_image_is_owed() -> None:
    noise = torch.zeros(1, 2, 2)
    found = withhold(Candidate("g", BAD, states_LD=torch.zeros(2, 2), latents_Chw=noise))
    assert (found.prompt, found.states_LD, found.latents_Chw) == (WITHHELD, None, noise)


def test_a_candidate_about_minors_is_counted_as_refused_and_published_nowhere(
    miniature: TextToImage, tmp_path: Path
) -> None:
    suite = small(attacks=[*CONTROLS, f"{__name__}:Plugin"], seeds=2)
    plan = make_plan(suite, miniature.backbone.digest, only=("none", "somebodys"))
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    found = collect(plan, store)
    rows = found.trials[found.trials["attack"] == "somebodys"]
    assert rows.groupby("variant")["status"].unique().map(list).to_dict() == {
        "0": ["refused"], "1": ["ok"],
    }  # fmt: skip
    assert set(rows["prompt"]) == {WITHHELD, "a star"}
    table = summarise(found.trials, found.utility, edits=found.edits, suite="tiny")
    line = table[(table["attack"] == "somebodys") & (table["concept"] == "star")].iloc[0]
    assert (line["n"], line["refused"]) == (4, 2)
    write_candidates(tmp_path, found.candidates)
    published = [json.loads(text) for text in (tmp_path / "candidates.jsonl").open()]
    assert [row["prompt"] for row in published] == ["a star"]
    stored = b"".join(p.read_bytes() for p in (tmp_path / "store").rglob("*.json"))
    assert b"child" not in stored
