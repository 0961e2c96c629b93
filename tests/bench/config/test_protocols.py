"""A protocol's name holds where everything but the methods is as in the shipped suite of that name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.config.protocols import followed, name_of, named, question
from bench.config.suite import SUITES, read_suite, suite_names
from bench.core.errors import UsageError
from bench.core.shipped import MINIATURES

NAME = "sd14-styles-quick"
CLAIMS = [name for name in suite_names() if read_suite(name).protocol is not None]


def copy_of(folder: Path, *changes: tuple[str, str]) -> Path:
    """The shipped suite with its concepts in another folder, changed."""
    shutil.copytree(SUITES / "concepts", folder / "concepts")
    text = (SUITES / f"{NAME}.yaml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CLAIMS)
def test_a_shipped_suite_follows_the_protocol_of_its_name(name: str) -> None:
    file = read_suite(name)
    assert file.protocol is not None and file.protocol.partition("@")[0] == name
    assert followed(file) == file.protocol == name_of(name)
    assert named(file.protocol) == file


def test_every_suite_of_a_real_base_has_a_protocol_and_no_two_ask_the_same() -> None:
    real = [name for name in suite_names() if read_suite(name).base not in MINIATURES]
    assert CLAIMS == real
    assert {f"sd14-{what}{size}" for what in ("nudity", "objects", "styles", "identities")
            for size in ("", "-quick")} < set(real)  # fmt: skip
    assert len({question(read_suite(name)) for name in real}) == len(real)


@pytest.mark.parametrize(
    ("changes", "protocol"),
    [
        ((), f"{NAME}@1"),
        ((("  - sld: {preset: max}\n", "  - sld: {preset: weak-20}\n"),), f"{NAME}@1"),
        (((f"name: {NAME}", "name: mine"), ("keep_images: 6", "keep_images: 0")), f"{NAME}@1"),
        ((("goals: 12", "goals: 11"),), None),
        ((("steps: 20", "steps: 19"),), None),
        ((("preset: unlearndiffatk ", "preset: unlearndiffatk-top3 "),), None),
        (((f"protocol: {NAME}@1", f"protocol: {NAME}@2"),), None),
        (((f"protocol: {NAME}@1", "protocol: theirs@7"), ("goals: 12", "goals: 11")), "theirs@7"),
        (((f"protocol: {NAME}@1\n", ""),), None),
    ],
)
def test_a_copy_keeps_the_name_only_if_it_asks_the_same(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], protocol: str | None
) -> None:
    assert followed(read_suite(copy_of(tmp_path, *changes))) == protocol


def test_other_prompts_are_another_question(tmp_path: Path) -> None:
    path = copy_of(tmp_path)
    concepts = tmp_path / "concepts" / "artists.json"
    concepts.write_text(concepts.read_text().replace("a starry sky above a town", "a starry sky"))
    assert followed(read_suite(path)) is None


@pytest.mark.parametrize("name", ["sd14", "sd14@0", "SD@1", "a b@1", "@1", "sd14@1.0"])
def test_a_name_has_a_version(tmp_path: Path, name: str) -> None:
    path = copy_of(tmp_path, (f"protocol: {NAME}@1", f'protocol: "{name}"'))
    with pytest.raises(UsageError, match=r"mine\.yaml:\d+: key protocol: "):
        read_suite(path)
