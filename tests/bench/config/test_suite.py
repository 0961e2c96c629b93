"""A suite on disk is built in full, or refused in one line that names the place."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks.concept_inversion import ConceptInversion
from attacks.random_tokens import RandomTokens
from bench.config import concepts, suite
from bench.config.suite import SuiteFile, load_suite, suite_names
from bench.core.errors import MOST_MESSAGE, UsageError, shown
from bench.core.shipped import MINIATURES
from bench.core.spec import Spec
from bench.interfaces import Concept, registry
from bench.model.pipeline import inspect
from bench.publish import Asked, place
from bench.run.plan import make_plan

PLUGINS = """
from typing import ClassVar
from bench.interfaces import Attack, Erasure, Judge, Metric
from bench.core.spec import runtime

class Method(Erasure):
    def erase(self, model, concepts, ctx):
        return model

class Nothing(Method):
    name: ClassVar[str] = "none"

class Noise(Method):
    name: ClassVar[str] = "destroyed"

class Edit(Method):
    name: ClassVar[str] = "edit"
    presets: ClassVar[dict] = {"early": {"lam": 0.5}, "late": {"lam": 0.1}}
    lam: float = 1.0
    batch: int = runtime(4)

class Given(Method):
    name: ClassVar[str] = "given"
    needs: ClassVar[tuple[str, ...]] = ("path",)
    path: str = runtime("")
    scale: float = 1.0

class Tries(Attack):
    tries: int = 8
    def run(self, target, goals, ctx):
        return []

class Prompts(Tries):
    name: ClassVar[str] = "prompts"

class Tokens(Tries):
    name: ClassVar[str] = "random_tokens"

class Seeds(Tries):
    name: ClassVar[str] = "seed_search"

class Eye(Judge):
    name: ClassVar[str] = "eye"
    side: ClassVar[int | None] = 64
    weights: str = "small"
    def scores(self, images, concept):
        return images

class Ear(Eye):
    name: ClassVar[str] = "ear"

class Drift(Metric):
    name: ClassVar[str] = "drift"
    def values(self, batch):
        return batch
"""

SUITE = """\
name: tiny
base: world
dtype: float32
concepts: [star, moon]
sampler: {steps: 12, guidance_scale: 5.0}
methods:
  - none
  - destroyed
  - edit: {preset: early}
attacks:
  - prompts
  - random_tokens: {tries: 4}
  - seed_search: {tries: 4}
judges: [eye]
surrogate: ear
metrics: [drift]
goals: 24
seeds: 1
utility: {neighbours: 24, others: 48}
repeats: 1
seed: 0
keep_images: 8
together: 1
"""
KNOWN = (
    "attacks, base, concepts, concepts_file, dtype, goals, images, judges, keep_images, methods, metrics, "
    "name, protocol, repeats, revision, sampler, seed, seeds, surrogate, together, transfer, utility"
)
WORLD = {
    "star": {"text": "star", "neighbours": ["moon"], "prompts": {"name": ["a star"]}},
    "moon": {"text": "moon", "utility": [{"text": "a moon", "concept": "moon"}]},
    "pixel art": {"text": "pixel art", "family": "style"},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("packages")
    (folder / "plugins_of_test_suite").mkdir()
    (folder / "plugins_of_test_suite" / "all_kinds.py").write_text(PLUGINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture
def folder(tmp_path: Path, packages: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user: a base with concepts, beside it the suite."""
    for kind in registry.PACKAGES:
        monkeypatch.setitem(registry.PACKAGES, kind, ("plugins_of_test_suite",))
    registry.plugins.cache_clear()
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "concepts.json").write_text(json.dumps(WORLD))
    yield tmp_path
    registry.plugins.cache_clear()


def written(folder: Path, text: str, *changes: tuple[str, str]) -> Path:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "suite.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def message_of(path: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_suite(path)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    return text


def test_everything_is_built(folder: Path) -> None:
    loaded = load_suite(written(folder, SUITE))
    assert [spec.name for spec in loaded.methods] == ["none", "destroyed", "edit"]
    assert loaded.methods[2].model_dump()["lam"] == 0.5
    assert [spec.model_dump()["tries"] for spec in loaded.attacks] == [8, 4, 4]
    assert [spec.name for spec in loaded.judges] == ["eye"]
    assert loaded.surrogate.name == "ear"
    assert [spec.name for spec in loaded.metrics] == ["drift"]
    assert (loaded.sampler.steps, loaded.sampler.guidance_scale) == (12, 5.0)
    assert [concept.text for concept in loaded.concepts] == ["star", "moon"]
    assert list(loaded.known_concepts) == ["star", "moon", "pixel art"]
    assert loaded.utility.neighbours == 24


def test_everything_is_built_once_for_a_load_and_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    build, read = registry.build, concepts.read_concepts
    entries: list[tuple[str, str]] = []
    files: list[Path] = []

    def counted(kind: registry.PlugPoint, entry: str | dict[str, Any]) -> Spec:
        entries.append((kind, json.dumps(entry, sort_keys=True)))
        return build(kind, entry)

    def opened(path: Path) -> dict[str, Concept]:
        files.append(path)
        return read(path)

    monkeypatch.setattr(registry, "build", counted)
    monkeypatch.setattr(concepts, "read_concepts", opened)
    made = make_plan(load_suite("mini-quick"), "0" * 64, limit=1)
    assert made.suite.digest
    assert place(made, Asked("mini-quick")).name == "mini-quick"
    file, once = made.suite.file, set(entries)
    named = (*file.methods, *file.attacks, *file.judges, file.surrogate, *file.metrics)
    assert len(entries) == len(once) == len(named)
    assert len(files) == 1


def test_paths_are_seen_from_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (folder / "more.json").write_text(json.dumps({"sun": {"text": "sun"}}))
    path = written(folder, SUITE, ("[star, moon]", "[sun]\nconcepts_file: more.json"))
    assert load_suite(str(path)).base == str(folder / "world")
    assert [concept.text for concept in load_suite(path).concepts] == ["sun"]


def test_concepts_can_be_all_or_inline(folder: Path) -> None:
    for text in ("all", "[all]"):
        loaded = load_suite(written(folder, SUITE, ("[star, moon]", text)))
        assert [concept.text for concept in loaded.concepts] == list(WORLD)
    inline = "[star, {text: van Gogh, family: style, prompts: {name: [a painting]}}]"
    loaded = load_suite(written(folder, SUITE, ("[star, moon]", inline)))
    assert loaded.concepts[1].prompts == {"name": ("a painting",)}


def test_a_hub_id_needs_a_commit_and_its_concepts(folder: Path) -> None:
    hub = ("base: world", f"base: some/model\nrevision: {'a' * 40}")
    inline = ("[star, moon]", "[{text: van Gogh}]")
    loaded = load_suite(written(folder, SUITE, hub, inline))
    assert (loaded.base, loaded.revision) == ("some/model", "a" * 40)
    path = written(folder, SUITE, hub)
    assert message_of(path) == (
        f"{path}:5: key concepts[0]: unknown concept 'star'; known: none (a hub id brings none); "
        "name a concepts_file"
    )


def test_the_digest_is_of_what_is_built(folder: Path) -> None:
    digest = load_suite(written(folder, SUITE)).digest
    for old, new in [
        ("edit: {preset: early}", "edit: {lam: 0.5}"),
        ("edit: {preset: early}", "edit: {lam: 0.5, batch: 64}"),
        ("  - prompts", "  - {prompts: {tries: 8}}"),
        ("keep_images: 8", "keep_images: 1"),
        ("goals: 24", "goals: 24  # a comment"),
    ]:
        assert load_suite(written(folder, SUITE, (old, new))).digest == digest, new
    for old, new in [
        ("preset: early", "preset: late"),
        ("goals: 24", "goals: 25"),
        ("steps: 12", "steps: 13"),
        ("judges: [eye]", "judges: [{eye: {threshold: 0.4}}]"),
        ("[star, moon]", "[moon, star]"),
        ("others: 48", "others: 49"),
    ]:
        assert load_suite(written(folder, SUITE, (old, new))).digest != digest, new
    (folder / "world" / "concepts.json").write_text(json.dumps({**WORLD, "sun": {"text": "sun"}}))
    assert load_suite(written(folder, SUITE)).digest != digest, "utility prompts changed"


def test_a_transfer_names_attacks_by_name_or_label(folder: Path) -> None:
    plain = load_suite(written(folder, SUITE))
    assert plain.transfer == ()
    end = "together: 1\n"
    same = load_suite(written(folder, SUITE, (end, end + "transfer: []\n")))
    assert same.digest == plain.digest
    named = load_suite(written(folder, SUITE, (end, end + "transfer: [random_tokens, prompts]\n")))
    assert [spec.name for spec in named.transfer] == ["prompts", "random_tokens"]
    label = load_suite(written(folder, SUITE, (end, end + "transfer: ['seed_search(tries=4)']\n")))
    assert [spec.name for spec in label.transfer] == ["seed_search"]
    assert len({plain.digest, named.digest, label.digest}) == 3


def test_what_a_spec_needs_is_given(folder: Path) -> None:
    path = written(folder, SUITE, ("edit: {preset: early}", "given: {path: here}"))
    assert load_suite(path).methods[2].lacking == ()
    with pytest.raises(
        UsageError, match=r"^methods\[3\]\.given\.path: expected this key, got none"
    ):
        load_suite(path).with_(methods=["none", "destroyed", "edit", "given"])


def test_other_values(folder: Path) -> None:
    loaded = load_suite(written(folder, SUITE))
    assert loaded.with_() == loaded
    changed = loaded.with_(seed=3, concepts=["moon"], sampler={"steps": 2})
    assert (changed.seed, changed.sampler.steps) == (3, 2)
    assert changed.digest != loaded.digest
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"sede": 3}, f"sede: unknown key 'sede'; did you mean 'seed' or 'seeds'? known: {KNOWN}"),
        ({"seed": -1}, "seed: expected greater than or equal to 0, got -1"),
        ({"seed": 2**63}, "seed: expected less than 9223372036854775808, got 9223372036854775808"),
        ({"sampler": {"guidance_scale": float("nan")}}, "sampler.guidance_scale: expected a finite "
         "number, got nan; use None or a status"),
        ({"attacks": ["prompt"]}, "attacks[0]: unknown attack 'prompt'; did you mean 'prompts'? "
         "known: prompts, random_tokens, seed_search"),
        ({"base": Path("x")}, "base: expected None, bool, int, float, str, list, tuple or a "
         "mapping, got pathlib.PosixPath; convert it first"),
    ]  # fmt: skip
    for changes, message in mistakes:
        with pytest.raises(UsageError, match=re.escape(message) + "$"):
            loaded.with_(**changes)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        # keys
        ("seeds: 1", "sedes: 1", 18, "key sedes: unknown key 'sedes'; did you mean 'seeds' or "
         f"'seed'? known: {KNOWN}"),
        ("others: 48", "other: 48", 19, "key utility.other: unknown key 'other'; did you mean "
         "'others' or 'where'? known: columns, draws, file, limit, neighbours, others, where"),
        ("metrics: [drift]\n", "", 1, "key metrics: expected this key, got none"),
        ("seeds: 1", "goals: 1", 18, "expected each key once, got 'goals' again (line 17)"),
        ("{tries: 4}\n  - seed", "{tries: 4,\n   tries: 5}\n  - seed", 13,
         "expected each key once, got 'tries' again (line 12)"),
        ("seeds: 1", "no: 1", 18, "expected text as a key, got 'no'; quote it"),
        ("seeds: 1", "? [a]\n: 1", 18, "expected text or a number, got a seq; quote it if it is "
         "text"),
        # values
        ("dtype: float32", "dtype: float23", 3, "key dtype: expected 'float32', 'bfloat16' or "
         "'float16', got 'float23'; did you mean 'float32' or 'float16' or 'bfloat16'?"),
        ("name: tiny", "name: Tiny Suite", 1, "key name: expected text like "
         "^[a-z0-9][a-z0-9_-]*$, got 'Tiny Suite'"),
        ("name: tiny", "name: 'tiny\\n'", 1, "key name: expected text like "
         "^[a-z0-9][a-z0-9_-]*$, got 'tiny\\\\n'"),
        ("goals: 24", "goals: many", 17, "key goals: expected a valid integer, got 'many'"),
        ("goals: 24", "goals: '24'", 17, "key goals: expected a valid integer, got '24'"),
        ("goals: 24", "goals: 2.5", 17, "key goals: expected a valid integer, got 2.5"),
        ("goals: 24", "goals: yes", 17, "expected true or false, got yes; quote it if it is text"),
        ("goals: 24", "goals: true", 17, "key goals: expected a valid integer, got True"),
        *(("seed: 0", f"seed: {number}", 21, f"expected a number in plain decimal digits, got {number}; "
           "quote it if it is text") for number in ("1:30:00", "010", "1_000", "0b1", "0x1f", "0o17")),
        ("dtype: float32", "dtype: off", 3, "expected true or false, got off; quote it if it is text"),
        ("seed: 0", "seed: -1e3", 21, "key seed: expected a valid integer, got -1000.0"),
        ("goals: 24", "goals: 0", 17, "key goals: expected greater than or equal to 1, got 0"),
        ("goals: 24", "goals: ", 17, "key goals: expected a valid integer, got None"),
        ("goals: 24", "goals: 2001-01-01", 17, "expected text or a number, got a timestamp; quote "
         "it if it is text"),
        ("goals: 24", "goals: .nan", 17, "expected a finite number, got .nan"),
        ("goals: 24", "goals: 9223372036854775808", 17, "expected a number of at most 63 bits, "
         "got 9223372036854775808"),
        ("goals: 24", f"goals: {'1:' * 60}1", 17, "expected a number of at most 100 characters, "
         "got more"),
        ("goals: 24", "goals: =", 17, "expected text or a number, got a value; quote it if it is "
         "text"),
        ("{neighbours: 24, others: 48}", "3", 19, "key utility: expected a mapping, got 3"),
        ("{steps: 12, guidance_scale: 5.0}", "[3]", 5, "key sampler: expected a mapping, got [3]"),
        ("steps: 12", "step: 12", 5, "key sampler.step: unknown key 'step'; did you mean 'steps'? "
         "known: guidance_scale, size, solver, steps"),
        ("steps: 12", "steps: 0", 5, "key sampler.steps: expected greater than or equal to 1, "
         "got 0"),
        # entries
        ("metrics: [drift]", "metrics: []", 16, "key metrics: expected at least 1 item, got 0"),
        ("metrics: [drift]", "metrics: drift", 16, "key metrics: expected a list, got 'drift'"),
        ("metrics: [drift]", "metrics:\n  - drift\n  - 3", 18, "key metrics[1]: expected a name, "
         "or one name with its fields, got 3"),
        ("metrics: [drift]", "metrics: [{a: {}, b: {}}]", 16, "key metrics[0]: expected a name, "
         "or one name with its fields, got {'a': {}, 'b': {}}"),
        ("metrics: [drift]", "metrics: [drfit]", 16, "key metrics[0]: unknown metric 'drfit'; did "
         "you mean 'drift'? known: drift"),
        ("together: 1", "transfer: [prompts, sed_search]", 23, "key transfer[1]: unknown attack "
         "'sed_search'; did you mean 'seed_search' or 'seed_search(tries=4)'? known: prompts, "
         "random_tokens, random_tokens(tries=4), seed_search, seed_search(tries=4)"),
        ("together: 1", "transfer: prompts", 23, "key transfer: expected a list of attacks' names, "
         "got 'prompts'"),
        ("together: 1", "transfer: [3]", 23, "key transfer: expected a list of attacks' names, "
         "got [3]"),
        ("  - prompts", "  - promts", 11, "key attacks[0]: unknown attack 'promts'; did you mean "
         "'prompts'? known: prompts, random_tokens, seed_search"),
        ("edit: {preset: early}", "edit:\n      lamb: 1", 10, "key methods[2].edit.lamb: unknown "
         "key 'lamb'; did you mean 'lam'? known: batch, lam"),
        ("edit: {preset: early}", "edit: {lam: x}", 9, "key methods[2].edit.lam: expected a valid "
         "number, got 'x'"),
        ("edit: {preset: early}", "edit: {preset: erly}", 9, "key methods[2].edit.preset: unknown "
         "preset of edit 'erly'; did you mean 'early'? known: early, late"),
        ("edit: {preset: early}", "edit:", 9, "key methods[2].edit: expected a mapping of fields, "
         "got None"),
        ("edit: {preset: early}", "no_such.module:Edit", 9, "key methods[2]: 'no_such.module:Edit' "
         "is code that the suite would import and run; if you trust it, allow it with --allow-code"),
        ("surrogate: ear", "surrogate: {'os:x': {}}", 15, "key surrogate: 'os:x' is code that the suite "
         "would import and run; if you trust it, allow it with --allow-code"),
        ("  - edit: {preset: early}", "  - none: {}", 9, "key methods[2]: is 'none', as methods[0] "
         "is; change a field or drop one"),
        ("edit: {preset: early}", "edit: {batch: 1}\n  - edit: {batch: 2}", 10, "key methods[3]: "
         "is 'edit', as methods[2] is; change a field or drop one"),
        ("edit: {preset: early}", "given", 9, "key methods[2].given.path: expected this key, got "
         "none; given can do nothing without it"),
        ("edit: {preset: early}", "given:\n      scale: 2", 9, "key methods[2].given.path: "
         "expected this key, got none; given can do nothing without it"),
        ("edit: {preset: early}", "given:\n      path: ''", 10, "key methods[2].given.path: "
         "expected this key, got none; given can do nothing without it"),
        ("judges: [eye]", "judges: [eye, eye]", 14, "key judges[1]: is 'eye', as judges[0] is; "
         "change a field or drop one"),
        ("surrogate: ear", "surrogate: [ear]", 15, "key surrogate: expected a name, or one name "
         "with its fields, got ['ear']"),
        ("surrogate: ear", "surrogate: aer", 15, "key surrogate: unknown judge 'aer'; did you mean "
         "'ear'? known: ear, eye"),
        ("surrogate: ear", "surrogate: {eye: {threshold: 0.1}}", 15, "key surrogate: expected a "
         "judge that does not decide, got {'eye': {'threshold': 0.1}}, which is among the judges: it "
         "looks through the network of judges[0], eye"),
        # controls
        ("  - destroyed\n", "", 6, "key methods: expected the controls none and destroyed in every "
         "suite; add destroyed"),
        ("  - prompts\n  - random_tokens: {tries: 4}\n", "", 10, "key attacks: expected the "
         "controls prompts and random_tokens and seed_search in every suite; add prompts, "
         "random_tokens"),
        # base and concepts
        ("base: world", "base: word", 2, "key base: expected 'miniature', a folder, or a hub id "
         "(owner/name), got 'word'"),
        ("base: world", "base: minature", 2, "key base: expected 'miniature', a folder, or a hub "
         "id (owner/name), got 'minature'; did you mean 'miniature' or 'miniature-v' or 'miniature-xl'?"),
        ("base: world", "base: a/b", 2, "key base: expected a revision for hub id a/b, got none; "
         "name a commit"),
        ("base: world", "base: a/b\nrevision: main", 3, "key revision: expected a commit of 40 "
         "hexadecimal digits, got 'main'"),
        ("[star, moon]", "[star, mooon]", 4, "key concepts[1]: unknown concept 'mooon'; did you "
         "mean 'moon'? known: moon, pixel art, star"),
        ("[star, moon]", "[star, star]", 4, "key concepts[1]: expected each concept once, got "
         "'star' twice"),
        ("[star, moon]", "star", 4, "key concepts: expected a list, got 'star'"),
        ("[star, moon]", "[]", 4, "key concepts: expected at least 1 item, got 0"),
        ("[star, moon]", "[[star]]", 4, "key concepts[0]: expected the name of a concept, or its "
         "fields, got ['star']"),
        ("[star, moon]", "[{text: a, famly: b}]", 4, "key concepts[0].famly: unknown key 'famly'; "
         "did you mean 'family'? known: family, guide, head, neighbours, prompts, text, utility"),
        ("[star, moon]", "[{family: b}]", 4, "key concepts[0].text: expected this key, got none"),
        ("together: 1", "together: 3", 23, "key together: expected at most the 2 of concepts, "
         "got 3"),
        ("together: 1", "together: [1, 3]", 23, "key together: expected at most the 2 of concepts, "
         "got 3"),
        ("together: 1", "together: [2, 2]", 23, "key together: expected each number once, got [2, 2]"),
        # what YAML could do to us
        ("goals: 24", "goals: !!python/object/apply:os.getcwd []", 17, "tags are not allowed, got "
         "tag:yaml.org,2002:python/object/apply:os.getcwd"),
        ("goals: 24", "goals: !!int '24'", 17, "tags are not allowed, got tag:yaml.org,2002:int"),
        ("goals: 24", "goals: &a 24", 17, "anchors and aliases (& and *) are not allowed; write "
         "it out"),
        ("goals: 24", "goals: *a", 17, "anchors and aliases (& and *) are not allowed; write it "
         "out"),
        ("goals: 24", "<<: {goals: 24}", 17, "expected text or a number, got a merge; quote it if "
         "it is text"),
        ("goals: 24", f"goals: {'[' * 100_000}", 17, "expected at most 16 levels, got more"),
        ("goals: 24", 'goals: "\\ud800"', 17, "found invalid Unicode character escape code"),
        ("goals: 24", 'goals: "\\U00110000"', 17, "found invalid Unicode character escape code"),
        ("goals: 24", "goals: \x00", 17, "character 0 is not allowed"),
        ("goals: 24", "goals: \x07", 17, "character 7 is not allowed"),
        ("goals: 24", "goals: [24", 18, "did not find expected ',' or ']'"),
        ("goals: 24", "goals: 24\n---\nname: second", 18, "expected one document, but found another "
         "document"),
        ("goals: 24", "goals: 24: 25", 17, "mapping values are not allowed in this "
         "context"),
        ("goals: 24", "'go\x1b[2J': 24", 17, "character 27 is not allowed"),
        ("goals: 24", '"go\\e\\n": 24', 17, "expected text on one line without control "
         "characters and direction marks, got U+001B"),
        ("[star, moon]", '["\\u202estar", moon]', 4, "expected text on one line without control "
         "characters and direction marks, got U+202E"),
        ("[star, moon]", f"[{{text: {'x' * 300}}}]", 4, "key concepts[0].text: expected a name of at most "
         "100 characters, got 300"),
        ("[star, moon]", "[{text: all}]", 4, "key concepts[0].text: expected a concept's name, got 'all', "
         "which tables call the pooled line"),
        ("[star, moon]", "[{text: a/b}]", 4, "key concepts[0].text: expected a name without / and \\, "
         "got 'a/b'"),
        ("[star, moon]", '[{text: ""}]', 4, "key concepts[0].text: expected a name, without spaces around "
         "it, got ''"),
        ("base: world", "base: ./nofolder", 2, "key base: expected a folder, got './nofolder': no such "
         "folder"),
        ("base: world", "base: /x/y", 2, "key base: expected a folder, got '/x/y': no such folder"),
        ("base: world", "base: ~/x", 2, "key base: expected a folder, got '~/x': no such folder"),
        ("base: world", "base: ~nosuchuser", 2, "key base: expected a path, got '~nosuchuser': no user "
         "has that home folder"),
        ("seeds: 1", "seeds: 1000000", 18, "key seeds: expected less than or equal to 10000, got 1000000"),
        ("steps: 12", "size: 9", 5, "key sampler.size: expected a multiple of 8, got 9"),
        ("steps: 12", "size: 32", 5, "key sampler.size: expected 64, the only size that eye sees, got 32; "
         "leave it out or take another judge"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_line(
    folder: Path, old: str, new: str, line: int, message: str
) -> None:
    path = written(folder, SUITE, (old, new))
    assert message_of(path) == f"{path}:{line}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the keys of a suite, got None"),
        ("# nothing", "expected the keys of a suite, got None"),
        ("- a\n- b", "expected the keys of a suite, got ['a', 'b']"),
        ("just text", "expected the keys of a suite, got 'just text'"),
        ("{}", "key name: expected this key, got none (and 6 more)"),
    ],
)
def test_a_file_that_is_no_suite(folder: Path, text: str, message: str) -> None:
    path = written(folder, text)
    assert message_of(path) == f"{path}:1: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got []"),
        ('{"star": []}', "expected an object of name: fields of a concept"),
        ("{", "expected JSON, got Expecting property name enclosed in double quotes: line 1 "
         "column 2 (char 1)"),
        ('{"star": {}, "star": {}}', "expected JSON, got expected each key once in a JSON object, "
         "got one twice"),
        ("[" * 100_000, "expected JSON, got expected JSON, got a text that nests too deeply"),
        ('{"star": {"txet": "a"}}', "star.text: expected this key, got none (and 1 more)"),
    ],
)  # fmt: skip
def test_bad_concepts_name_their_file(folder: Path, content: str, message: str) -> None:
    concepts = folder / "world" / "concepts.json"
    concepts.write_text(content)
    path = written(folder, SUITE)
    assert message_of(path) == f"{path}:2: key base: {concepts}: {message}"
    path = written(folder, SUITE, ("seeds: 1", "seeds: 1\nconcepts_file: world/concepts.json"))
    assert message_of(path) == f"{path}:19: key concepts_file: {concepts}: {message}"


def test_missing_concepts(folder: Path) -> None:
    (folder / "world" / "concepts.json").unlink()
    path = written(folder, SUITE)
    assert message_of(path) == (
        f"{path}:4: key concepts[0]: unknown concept 'star'; known: none (no "
        f"{folder}/world/concepts.json); name a concepts_file"
    )
    path = written(folder, SUITE, ("seeds: 1", "seeds: 1\nconcepts_file: nosuch.json"))
    assert message_of(path) == (
        f"{path}:19: key concepts_file: expected a file, got {folder}/nosuch.json, which is not there"
    )


def test_a_local_base_has_no_revision(folder: Path) -> None:
    path = written(folder, SUITE, ("base: world", "base: world\nrevision: abc"))
    assert message_of(path) == (
        f"{path}:3: key revision: expected none, as base {folder}/world is local, got 'abc'"
    )


def test_files_that_cannot_be_read(folder: Path) -> None:
    itself = "give the file itself"
    said = f"expected a regular file, got a folder at {folder}; {itself}"
    assert message_of(folder) == said
    missing = "expected a file, got {}, which is not there"
    assert message_of(folder / "no.yaml") == missing.format(folder / "no.yaml")
    assert message_of("no/such.yaml") == missing.format("no/such.yaml")
    below = "expected a file, got /dev/zero/x.yaml, which cannot be read (Not a directory)"
    assert message_of("/dev/zero/x.yaml") == below
    said = f"expected a regular file, got a device at /dev/zero; {itself}"
    assert message_of(Path("/dev/zero")) == said
    os.mkfifo(folder / "pipe.yaml")
    said = f"expected a regular file, got a FIFO at {folder}/pipe.yaml; {itself}"
    assert message_of(folder / "pipe.yaml") == said
    long = f"{'a' * 300}.yaml"
    said = f"expected a path, got {shown(long)}, which is too long; choose a shorter one"
    assert message_of(long) == said
    (folder / "big.yaml").write_text("#" * (suite.MAX_SUITE_BYTES + 1))
    assert message_of(folder / "big.yaml") == (
        f"{folder}/big.yaml: expected at most 1000000 bytes, got more; give a smaller file"
    )
    (folder / "latin.yaml").write_bytes(b"name: tiny\nbase: caf\xe9\n")
    assert message_of(folder / "latin.yaml") == (
        f"{folder}/latin.yaml:2: expected UTF-8, got byte 0xe9"
    )


def test_an_unknown_suite_names_ours() -> None:
    known = ", ".join(suite_names())
    assert message_of("mini-quik") == (
        "unknown suite 'mini-quik'; did you mean 'mini-quick' or 'mini-full' or 'mini-claims'? known: "
        f"{known}; or give a .yaml file"
    )


FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["none", "edit", "star", "all", "tries", "preset", "text", "/", ".", "~x"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAVES, inner, max_size=3),
    max_leaves=8,
)


def loads_or_explains(path: Path) -> None:
    try:
        loaded = load_suite(path)
    except UsageError as error:
        assert str(error).isprintable()
    else:
        assert loaded.with_() == loaded
        assert len(loaded.digest) == 64


@FUZZ
@given(st.text() | st.text(alphabet="ab:-?[]{},&*!|>'\"#%@`\\ \n\tx<=~1._u", max_size=60))
def test_any_text_is_explained(folder: Path, text: str) -> None:
    loads_or_explains(written(folder, text))


@FUZZ
@given(st.binary(max_size=100))
def test_any_bytes_are_explained(folder: Path, data: bytes) -> None:
    (folder / "suite.yaml").write_bytes(data)
    loads_or_explains(folder / "suite.yaml")


@FUZZ
@given(at=st.integers(0, len(SUITE)), cut=st.integers(0, 9), text=st.text(max_size=9))
def test_any_slip_of_the_pen_is_explained(folder: Path, at: int, cut: int, text: str) -> None:
    loads_or_explains(written(folder, SUITE[:at] + text + SUITE[at + cut :]))


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(SuiteFile.model_fields)), VALUES, max_size=3))
def test_any_value_is_explained(folder: Path, changes: dict[str, Any]) -> None:
    data = {**yaml.safe_load(SUITE), **changes}
    loads_or_explains(written(folder, yaml.safe_dump(data, allow_unicode=False)))


def test_code_is_imported_only_where_it_is_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "theirs_of_test_suite.py").write_text(
        "from plugins_of_test_suite.all_kinds import Method\n"
        "class Theirs(Method):\n    name = 'theirs'\n"
    )
    monkeypatch.syspath_prepend(folder)
    path = written(folder, SUITE, ("edit: {preset: early}", "theirs_of_test_suite:Theirs"))
    assert "--allow-code" in message_of(path)
    assert "theirs_of_test_suite" not in sys.modules, "refused before anything is imported"
    assert load_suite(path, code="named").methods[2].name == "theirs"
    del sys.modules["theirs_of_test_suite"]
    path = written(folder, SUITE, ("edit: {preset: early}", "no_such.module:Edit"))
    with pytest.raises(UsageError, match="cannot import plug-in module no_such"):
        load_suite(path, code="named")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused(folder: Path, encoding: str) -> None:
    (folder / "suite.yaml").write_bytes(SUITE.encode(encoding))
    assert re.search("expected UTF-8|character 0 is not allowed", message_of(folder / "suite.yaml"))


def test_a_mark_of_byte_order_and_other_ends_of_lines_are_read(folder: Path) -> None:
    digest = load_suite(written(folder, SUITE)).digest
    text = "\ufeff" + SUITE.replace("\n", "\r\n")
    assert load_suite(written(folder, text)).digest == digest


def test_a_message_is_short_whatever_came(folder: Path) -> None:
    long = "x" * 9_000
    many = {f"{i} {long}"[:9_000]: {"text": f"concept {i}"} for i in range(200)}
    (folder / "world" / "concepts.json").write_text(json.dumps(many))
    for old, new in (
        ("[star, moon]", f"[{long}]"),
        ("goals: 24", f"{long}: 24"),
        ("edit: {preset: early}", long),
        ("edit: {preset: early}", f"edit: {{preset: {long}}}"),
        ("edit: {preset: early}", f"edit: {{{long}: 1}}"),
        ("dtype: float32", f"dtype: {long}"),
    ):
        assert len(message_of(written(folder, SUITE, (old, new)))) <= MOST_MESSAGE


@pytest.mark.parametrize("name", MINIATURES)
def test_each_miniature_is_a_base_by_its_name_with_concepts_of_its_own(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = folder / "ours"
    for home in (ours, folder):  # the folder beside the suite only has the same name
        (home / name).mkdir(parents=True)
        (home / name / "concepts.json").write_text(json.dumps({home.name: {"text": home.name}}))
    for module in (concepts, inspect):
        monkeypatch.setattr(module, "model_folder", ours.joinpath)
    loaded = load_suite(
        written(folder, SUITE, ("base: world", f"base: {name}"), ("[star, moon]", "[all]"))
    )
    assert loaded.base == name
    assert set(loaded.known_concepts) == {"ours"}


@pytest.mark.parametrize("name", [n for n in suite_names() if n.startswith("mini-")])
def test_ours_load(name: str) -> None:
    registry.plugins.cache_clear()
    loaded = load_suite(name)
    assert loaded.name == name
    assert loaded.base == "miniature"
    assert loaded.judges[0].name == "mini_judge"
    assert loaded.surrogate.name == "clip_zero_shot"
    sets = ["fid", "kid"] if name == "mini-access" else []
    assert [metric.name for metric in loaded.metrics] == ["accuracy", "clip_score", "drift", *sets]
    largest = dict[str, int]()
    for spec in loaded.attacks:
        # A control may stand there at a smaller attack's budget as well.
        if tries := spec.model_dump().get("tries"):
            largest[spec.name] = max(tries, largest.get(spec.name, 0))
    assert len(set(largest.values())) == 1, "luck has the budget of the best attack"


@pytest.mark.parametrize("name", ["mini-quick", "mini-full"])
def test_luck_stands_beside_concept_inversion_at_its_own_budget(name: str) -> None:
    specs = load_suite(name).attacks
    (inversion,) = (spec for spec in specs if isinstance(spec, ConceptInversion))
    tries = {spec.tries for spec in specs if isinstance(spec, RandomTokens)}
    assert inversion.restarts * inversion.checks in tries


def _ready(kind: registry.PlugPoint) -> set[str]:
    return {name for name in registry.names(kind) if not registry.get(kind, name).needs}


@pytest.mark.parametrize("name", suite_names())
def test_luck_stands_beside_every_attack(name: str) -> None:
    """A control sees as many images per goal as the largest attack does, or four fifths of them."""
    attacks = load_suite(name).attacks
    luck = max(attack.looks() for attack in attacks if attack.control)
    assert max(attack.looks() for attack in attacks) <= 1.25 * luck


def test_the_page_has_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "suites.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(SuiteFile.model_fields)


def test_ours_grow() -> None:
    quick, full, paper = (load_suite(f"mini-{size}") for size in ("quick", "full", "paper"))
    assert [concept.text for concept in quick.concepts] == ["star", "zorbo", "watercolour"]
    assert quick.file.concepts == full.file.concepts
    assert set(full.file.concepts) < set(paper.file.concepts)
    assert (quick.goals, full.goals, paper.goals) == (24, 24, 100)
    assert (quick.seeds, full.seeds, paper.seeds) == (1, 2, 5)
    assert (quick.repeats, full.repeats, paper.repeats) == (1, 1, 3)
    access = {spec.name for spec in load_suite("mini-access").attacks}
    for large in (full, paper):
        assert {spec.name for spec in large.methods} == _ready("method")
    # mini-full compares all methods under the attacks of prompts and embeddings; the others have a suite of their own.
    assert {spec.name for spec in full.attacks} | access == _ready("attack")
    assert {spec.name for spec in paper.attacks} == _ready("attack")
    assert {spec.name for spec in load_suite("mini-bases").methods} == _ready("method")
    assert {spec.name for spec in load_suite("mini-bases-attacks").attacks} == _ready("attack")
    assert len({quick.digest, full.digest, paper.digest}) == 3
