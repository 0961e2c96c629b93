"""On real packages and entry points on disk: what is found, and what every mistake says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from bench.core.errors import UsageError
from bench.interfaces import Attack, Erasure, Judge, Measure, registry
from bench.model.filters import Filter
from bench.model.guidance import ClassifierFree, Guidance, NegativePrompt

ROOT = Path(registry.__file__).parents[2]

ATTACK = """
    from typing import Any, ClassVar
    from pydantic import Field
    from bench.interfaces import Attack

    class {cls}(Attack):
        name: ClassVar[str] = "{name}"
        presets: ClassVar[dict[str, dict[str, Any]]] = {{"paper": {{"tries": 64}}}}
        tries: int = Field(8, ge=1)
        mode: str = "best"

        def run(self, target, goals, ctx):
            return []
"""
METHOD = """
    from typing import ClassVar
    from bench.interfaces import Erasure

    class {cls}(Erasure):
        name: ClassVar[str] = "{name}"

        def erase(self, model, concepts, ctx):
            return model
"""


def attack(cls: str, name: str) -> str:
    return dedent(ATTACK).format(cls=cls, name=name)


def method(cls: str, name: str) -> str:
    return dedent(METHOD).format(cls=cls, name=name)


PARTS = """
    from typing import ClassVar
    from bench.model.filters import PromptFilter
    from bench.model.guidance import ClassifierFree

    class Tilted(ClassifierFree):
        name: ClassVar[str] = "{guidance}"
        revision: ClassVar[int] = 2
        angle: float = 0.0

    class Deaf(PromptFilter):
        name: ClassVar[str] = "{filter}"

        def refuses(self, model, prompts):
            return None
"""


class Site:
    """A folder on ``sys.path`` with a package of plug-ins of every kind, as ``site-packages``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "plugged"
        self.write("__init__", "")

    def write(self, module: str, text: str) -> None:
        self.package.mkdir(exist_ok=True)
        (self.package / f"{module}.py").write_text(dedent(text))

    def install(self, package: str, points: str) -> None:
        info = self.folder / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\n{points}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for kind in registry.PACKAGES:
        monkeypatch.setitem(registry.PACKAGES, kind, ("plugged",))
    monkeypatch.syspath_prepend(tmp_path)
    registry.plugins.cache_clear()
    yield Site(tmp_path)
    registry.plugins.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in {"plugged", "outside"}]:
        del sys.modules[name]


def message_of(*arguments: Any, call: Any = registry.build) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    return text


def test_nothing_is_imported_before_the_first_question() -> None:
    code = "import sys, bench.interfaces.registry; print({'torch', 'methods'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_class_is_found_by_its_file(site: Site) -> None:
    site.write("zebra", attack("Zebra", "zebra"))
    site.write("ant", attack("Ant", "ant") + attack("Bee", "bee"))
    site.write("method", method("Cut", "cut"))
    assert registry.names("attack") == ["ant", "bee", "zebra"]
    assert registry.names("method") == ["cut"]
    assert registry.names("judge") == registry.names("metric") == []
    assert registry.get("attack", "bee").__name__ == "Bee"
    assert issubclass(registry.get("attack", "bee"), Attack)
    assert issubclass(registry.get("method", "cut"), Erasure)


def test_bases_nameless_and_imported_classes_are_no_plugins(site: Site) -> None:
    site.write("ant", attack("Ant", "ant"))
    site.write(
        "zoo",
        """
        from plugged.ant import Ant
        from bench.interfaces import Attack, Judge

        class Family(Attack):
            name = "family"

        class Nameless(Ant):
            name = ""
        """,
    )
    assert registry.names("attack") == ["ant"]


def test_the_same_class_in_a_package_and_as_an_entry_point_is_one(site: Site) -> None:
    site.write("ant", attack("Ant", "ant"))
    site.install("ants", "ant = plugged.ant:Ant")
    assert registry.names("attack") == ["ant"]
    assert registry.plugins("attack")["ant"].source == "built in"


def test_entries(site: Site) -> None:
    site.write("ant", attack("Ant", "ant"))
    ant = registry.get("attack", "ant")
    for entry, tries, mode in [
        ("ant", 8, "best"),
        ({"ant": {}}, 8, "best"),
        ({"ant": {"tries": 3}}, 3, "best"),
        ({"ant": {"preset": "paper"}}, 64, "best"),
        ({"ant": {"preset": "paper", "mode": "last"}}, 64, "last"),
        ({"ant": {"preset": "paper", "tries": 1}}, 1, "best"),
        ("plugged.ant:Ant", 8, "best"),
        ({"plugged.ant:Ant": {"preset": "paper"}}, 64, "best"),
    ]:
        entry_before = repr(entry)
        built = registry.build("attack", entry)  # type: ignore[arg-type]  # a loop over both forms
        assert type(built) is ant
        assert built == ant(tries=tries, mode=mode)  # type: ignore[call-arg]  # of the class above
        assert repr(entry) == entry_before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("and", "unknown attack 'and'; did you mean 'ant'? known: ant, moth"),
        ("qqq", "unknown attack 'qqq'; known: ant, moth"),
        ("", "unknown attack ''; known: ant, moth"),
        ("a\nb", "unknown attack 'a\\nb'; known: ant, moth"),
        ({"ant": {"tires": 8}}, "ant.tires: unknown key 'tires'; did you mean 'tries'? known: "
         "goals, mode, prompt_sets, tries"),
        ({"ant": {"": 8}}, "ant.: unknown key ''; known: goals, mode, prompt_sets, tries"),
        ({"ant": {"tries": "x"}}, "ant.tries: expected a valid integer, got 'x'"),
        ({"ant": {"tries": 0}}, "ant.tries: expected greater than or equal to 1, got 0"),
        ({"ant": {"mode": 3}}, "ant.mode: expected text, got 3"),
        ({"ant": {"prompt_sets": "name"}}, "ant.prompt_sets: expected a list, got 'name'"),
        ({"ant": {"mode": 3, "tries": 0}}, "ant.tries: expected greater than or equal to 1, got 0 "
         "(and 1 more)"),
        ({"ant": {"preset": "papr"}}, "ant.preset: unknown preset of ant 'papr'; did you mean "
         "'paper'? known: paper"),
        ({"ant": {"preset": []}}, "ant.preset: unknown preset of ant []; known: paper"),
        ({"ant": {"preset": "paper", "tires": 1}}, "ant.tires: unknown key 'tires'; did you mean "
         "'tries'? known: goals, mode, prompt_sets, tries"),
        ({"ant": None}, "ant: expected a mapping of fields, got None"),
        ({"ant": {3: 4}}, "ant: expected a mapping of fields, got {3: 4}"),
        ({3: {}}, "expected a name, got 3"),
        ({}, "expected a name, or one name with its fields, got {}"),
        ({"ant": {}, "moth": {}}, "expected a name, or one name with its fields, got "
         "{'ant': {}, 'moth': {}}"),
        (["ant"], "expected a name, or one name with its fields, got ['ant']"),
        (None, "expected a name, or one name with its fields, got None"),
    ],
)  # fmt: skip
def test_a_bad_entry_says_what_is_known(site: Site, entry: object, message: str) -> None:
    site.write("ant", attack("Ant", "ant") + attack("Moth", "moth"))
    assert message_of("attack", entry) == message


def test_an_unknown_kind_says_the_kinds() -> None:
    assert message_of("atack", call=registry.names) == (
        "unknown kind of plug-in 'atack'; did you mean 'attack'? known: attack, judge, method, "
        "metric"
    )


def test_two_of_one_name_are_both_named(site: Site) -> None:
    site.write("ant", attack("Ant", "ant"))
    site.write("emmet", attack("Emmet", "ant"))
    site.write("method", method("AntMethod", "ant"))
    assert message_of("attack", call=registry.names) == (
        "two attacks are named 'ant': plugged.ant:Ant (built in) and plugged.emmet:Emmet "
        "(built in); rename one"
    )
    assert registry.names("method") == ["ant"], "another kind has names of its own"


def test_a_bad_name_is_refused(site: Site) -> None:
    site.write("ant", attack("Ant", "../Ant"))
    assert message_of("attack", call=registry.names) == (
        "plugged.ant:Ant: expected a class attribute 'name' of a-z, 0-9 and _, got '../Ant'"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("import nosuchthing.at_all", "ModuleNotFoundError: No module named 'nosuchthing'"),
        ("from bench.core.spec import nosuch", "ImportError: cannot import name 'nosuch' from "
         f"'bench.core.spec' ({ROOT / 'bench' / 'core' / 'spec.py'})"),
    ],
)  # fmt: skip
def test_a_module_that_fails_is_never_skipped(site: Site, text: str, reason: str) -> None:
    site.write("ant", attack("Ant", "ant"))
    site.write("broken", text)
    expected = f"cannot import plug-in module plugged.broken: {reason}"
    assert message_of("attack", "ant") == expected
    assert message_of("attack", "ant") == expected, "nor the second time"


def test_a_syntax_error_names_the_module(site: Site) -> None:
    site.write("broken", "def (")
    assert message_of("attack", call=registry.names) == (
        "cannot import plug-in module plugged.broken: SyntaxError: invalid syntax "
        "(broken.py, line 1)"
    )


@pytest.mark.parametrize(
    "reference",
    ["a:", ":A", "a:b:C", "a.:B", ".a:B", "a..b:C", "a b:C", "a/b:C", "a:B()", "1a:B", "a:B.C",
     "ä:B", "a:B\n", "os;x:B", "a-b:C", "::"],
)  # fmt: skip
def test_only_dotted_names_are_imported(site: Site, reference: str) -> None:
    assert message_of("attack", reference) == f"expected module:Class, got {reference!r}"


def test_a_class_of_any_module(site: Site) -> None:
    (site.folder / "outside.py").write_text(attack("Owl", "owl"))
    owl = registry.build("attack", {"outside:Owl": {"tries": 2}})
    assert isinstance(owl, Attack)
    assert owl.label == "owl(tries=2)"
    assert registry.names("attack") == [], "it joins the suite that names it, not the registry"


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("attack", "outside:Ow", "unknown class of outside 'Ow'; did you mean 'Owl'? known: "
         "Abstract, Attack, Nameless, Owl, Twin"),
        ("method", "outside:Owl", "outside:Owl: expected a subclass of bench.interfaces.Erasure, "
         "got <class 'outside.Owl'>"),
        ("attack", "outside:NUMBER", "outside:NUMBER: expected a subclass of "
         "bench.interfaces.Attack, got 3"),
        ("attack", "outside:Abstract", "outside:Abstract: expected methods of Attack all defined, "
         "got none for run"),
        ("attack", "outside:Nameless", "outside:Nameless: expected a class attribute 'name' of "
         "a-z, 0-9 and _, got ''"),
        ("attack", "outside:Twin", "two attacks are named 'ant': plugged.ant:Ant (built in) and "
         "outside:Twin (the suite); rename one"),
        ("attack", "nosuchmodule:A", "cannot import plug-in module nosuchmodule: "
         "ModuleNotFoundError: No module named 'nosuchmodule'; put its folder on PYTHONPATH or "
         "install it"),
        ("attack", "outside.inner:A", "cannot import plug-in module outside.inner: "
         "ModuleNotFoundError: No module named 'outside.inner'; 'outside' is not a package"),
    ],
)  # fmt: skip
def test_a_bad_class_says_why(site: Site, kind: str, reference: str, message: str) -> None:
    site.write("ant", attack("Ant", "ant"))
    text = attack("Owl", "owl") + attack("Nameless", "") + attack("Twin", "ant")
    text += "\nNUMBER = 3\nclass Abstract(Attack):\n    name: ClassVar[str] = 'abstract'\n"
    (site.folder / "outside.py").write_text(text)
    assert message_of(kind, reference) == message


def test_an_installed_package_joins_by_its_entry_point(site: Site) -> None:
    (site.folder / "outside.py").write_text(attack("Owl", "owl") + method("Day", "day"))
    site.install("owls", "night = outside:Owl\nday = outside:Day")
    site.write("ant", attack("Ant", "ant"))
    assert registry.names("attack") == ["ant", "owl"]
    assert registry.names("method") == ["day"]
    assert registry.plugins("attack")["owl"].source == "entry point night of owls"
    assert registry.build("attack", {"owl": {"preset": "paper"}}).model_dump()["tries"] == 64


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("ghost = nosuchmodule:Ghost", "cannot import plug-in module nosuchmodule (entry point "
         "ghost of owls): ModuleNotFoundError: No module named 'nosuchmodule'; put its folder on "
         "PYTHONPATH or install it"),
        ("owl = outside:Ow", "unknown class of outside 'Ow'; did you mean 'Owl'? known: "
         "Attack, Base, Owl, Twin (entry point owl of owls)"),
        ("module = outside", "expected module:Class, got 'outside' (entry point module of owls)"),
        ("number = outside:NUMBER", "entry point number of owls: expected a method, attack, "
         "judge, metric, got 3"),
        ("base = outside:Base", "entry point base of owls: expected methods of Attack all "
         "defined, got none for run"),
        ("twin = outside:Twin", "two attacks are named 'ant': plugged.ant:Ant (built in) and "
         "outside:Twin (entry point twin of owls); rename one"),
    ],
)  # fmt: skip
def test_a_broken_entry_point_is_named(site: Site, point: str, message: str) -> None:
    text = attack("Owl", "owl") + attack("Twin", "ant")
    text += "\nNUMBER = 3\nclass Base(Attack):\n    name: ClassVar[str] = 'base'\n"
    (site.folder / "outside.py").write_text(text)
    site.install("owls", point)
    site.write("ant", attack("Ant", "ant"))
    assert message_of("attack", "ant") == message


# -- what only a user can give -------------------------------------------------------------------


def test_a_plugin_without_what_it_needs_is_refused(site: Site) -> None:
    needs = '    needs: ClassVar[tuple[str, ...]] = ("mode",)\n'
    (site.folder / "outside.py").write_text(attack("Owl", "owl") + needs)
    site.install("owls", "owl = outside:Owl")
    lacks = "expected this key, got none; owl can do nothing without it"
    for entry, called in [
        ("owl", "owl"),
        ({"owl": {"tries": 3}}, "owl"),
        ({"owl": {"preset": "paper"}}, "owl"),
        ({"owl": {"mode": "best"}}, "owl"),  # the default is as good as nothing
        ("outside:Owl", "outside:Owl"),
    ]:
        assert message_of("attack", entry) == f"{called}.mode: {lacks}"
    built = registry.build("attack", {"owl": {"preset": "paper", "mode": "last"}})
    assert (built.lacking, built.model_dump()["tries"]) == ((), 64)


# -- the parts of an edit, by their identity -----------------------------------------------------


def test_a_guidance_and_a_filter_come_back_by_their_identity() -> None:
    for guidance in (ClassifierFree(), NegativePrompt(text="star")):
        assert Guidance.from_identity(guidance.identity()) == guidance


def test_a_part_of_a_plugin_is_known_once_the_plugins_are_loaded(site: Site) -> None:
    site.write("parts", dedent(PARTS).format(guidance="tilted", filter="deaf"))
    (site.folder / "outside.py").write_text(
        method("Far", "far") + dedent(PARTS).format(guidance="far_tilted", filter="far_deaf")
    )
    site.install("distant", "far = outside:Far")
    with pytest.raises(ValueError, match=r"^unknown guidance 'tilted'"):
        Guidance.from_identity({"name": "tilted", "revision": 2, "fields": {"angle": 0.5}})
    registry.load()
    for name in ("tilted", "far_tilted"):
        found = Guidance.from_identity({"name": name, "revision": 2, "fields": {"angle": 0.5}})
        assert (found.name, found.model_dump()) == (name, {"angle": 0.5})
    for name in ("deaf", "far_deaf"):
        assert Filter.from_identity({"name": name, "revision": 1, "fields": {}}).name == name


def test_a_part_of_a_plugin_that_is_broken_names_the_plugin(site: Site) -> None:
    site.write("broken", "1 / 0")
    assert message_of(call=registry.load) == (
        "cannot import plug-in module plugged.broken: ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize("name", ["negative_promt", "os:system", "", None, ["negative_prompt"]])
def test_an_unknown_part_is_refused_with_what_is_known(site: Site, name: object) -> None:
    with pytest.raises(ValueError, match=r"^unknown guidance .*known: .*negative_prompt") as caught:
        Guidance.from_identity({"name": name, "revision": 1, "fields": {}})
    assert ("did you mean 'negative_prompt'?" in str(caught.value)) == (name == "negative_promt")
    with pytest.raises(ValueError, match=r"^unknown filter 'negative_prompt'"):
        Filter.from_identity(NegativePrompt(text="star").identity())


def test_a_part_of_another_revision_says_so() -> None:
    identity = {**NegativePrompt(text="star").identity(), "revision": 7}
    with pytest.raises(ValueError, match=r"'negative_prompt': expected revision 1, got 7; .*again"):
        Guidance.from_identity(identity)


@pytest.mark.parametrize(
    ("kind", "base", "name"),
    [
        ("method", Erasure, "none"),
        ("attack", Attack, "prompts"),
        ("judge", Judge, "mini_judge"),
        ("metric", Measure, "accuracy"),
    ],
)
def test_ours_are_found(kind: registry.PlugPoint, base: type, name: str) -> None:
    registry.plugins.cache_clear()
    assert name in registry.names(kind)
    for known in registry.names(kind):
        cls = registry.get(kind, known)
        assert issubclass(cls, base)
        assert (cls.kind, cls.name) == (kind, known)
