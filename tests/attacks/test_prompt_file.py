from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from attacks.prompts import Prompts
from attacks.shared.prompt_file import PromptRow, read_prompts, tensors_file
from bench.core.errors import UsageError
from bench.interfaces import Access, Candidate, Concept, Goal, Rng, Target
from bench.interfaces.minors import about_minors
from bench.interfaces.prompt_source import Draw
from bench.judges.mini import MiniJudge
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

Write = Callable[[str, "str | bytes"], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


# -- good files ----------------------------------------------------------------------------------


def test_a_csv_of_prompts_and_concepts(write: Write) -> None:
    path = write("a.csv", 'prompt,concept\na red star,star\n"a ring, at sunset",\n')
    assert read_prompts(path) == [
        PromptRow(line=2, prompt="a red star", concept="star"),
        PromptRow(line=3, prompt="a ring, at sunset"),
    ]
    assert read_prompts(str(path)) == read_prompts(path)


def test_other_columns_are_left_alone(write: Write) -> None:
    path = write("a.csv", "seed,prompt,source\n7,a star,\n8,a ring,i2p\n")
    assert [row.prompt for row in read_prompts(path)] == ["a star", "a ring"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_of_other_programs(
    write: Write, end: str, mark: str
) -> None:
    table = write("a.csv", f"{mark}prompt{end}a star{end}étoile{end}")
    lines = write("a.jsonl", f'{mark}{{"prompt": "a star"}}{end}{{"prompt": "étoile"}}{end}')
    for path in (table, lines):
        assert [row.prompt for row in read_prompts(path)] == ["a star", "étoile"]


def test_the_line_of_a_prompt_is_counted_in_the_file(write: Write) -> None:
    path = write("a.csv", "prompt\n\na star\n\na ring\n")
    assert [row.line for row in read_prompts(path)] == [3, 5]
    path = write("a.jsonl", '\n{"prompt": "a star"}\n\n  \n{"prompt": "a ring"}')
    assert [row.line for row in read_prompts(path)] == [2, 5]


def test_blanks_around_a_prompt_are_cut(write: Write) -> None:
    path = write("a.jsonl", '{"prompt": "  a star\\n", "concept": " star "}')
    assert read_prompts(path) == [PromptRow(line=1, prompt="a star", concept="star")]


def test_a_jsonl_of_prompts_and_other_keys(write: Write) -> None:
    path = write("a.jsonl", '{"prompt": "a star", "concept": null, "seed": null, "x": {}}\n')
    assert read_prompts(path) == [PromptRow(line=1, prompt="a star")]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\u000b", "\u001e"])
def test_a_line_of_jsonl_ends_at_a_newline_alone(write: Write, separator: str) -> None:
    prompt = f"a star{separator}at sunset"
    line = json.dumps({"prompt": prompt}, ensure_ascii=False)
    path = write("a.jsonl", f"{line}\n{line}\n")
    if separator in line:  # JSON escapes the others
        assert len(line.splitlines()) == 2
    assert [(row.line, row.prompt) for row in read_prompts(path)] == [(1, prompt), (2, prompt)]


def test_other_formats_hold_the_same_rows(write: Write, tmp_path: Path) -> None:
    records = [
        {"prompt": "a red star", "concept": "star"},
        {"prompt": "étoile, au loin", "concept": ""},
    ]
    table = pa.Table.from_pylist(records)
    pq.write_table(table, tmp_path / "a.parquet")
    text = 'prompt,concept\na red star,star\n"étoile, au loin",\n'
    paths = [
        tmp_path / "a.parquet",
        write("a.tsv", "prompt\tconcept\na red star\tstar\nétoile, au loin\t\n"),
        write("a.json", json.dumps(records)),
        write("b.json", json.dumps({name: table[name].to_pylist() for name in table.column_names})),
        write("a.ndjson", "".join(json.dumps(r) + "\n" for r in records)),
        write("A.CSV", text),
        write("a.csv.gz", gzip.compress(text.encode())),
        write("a.parquet.gz", gzip.compress((tmp_path / "a.parquet").read_bytes())),
        *(write(f"{e}.csv", text.encode(e)) for e in ("utf-8-sig", "utf-16", "utf-32")),
        write("be.csv", codecs.BOM_UTF16_BE + text.encode("utf-16-be")),
    ]
    for path in paths:
        found = [(row.prompt, row.concept) for row in read_prompts(path)]
        assert found == [("a red star", "star"), ("étoile, au loin", "")], path.name
    for path in (
        write("a.txt", "a red star\n\nétoile, au loin\n"),
        write("c.json", '["a red star", "étoile, au loin"]'),
    ):
        assert [row.prompt for row in read_prompts(path)] == ["a red star", "étoile, au loin"]


def test_a_packed_file_is_bounded_by_what_it_holds(write: Write) -> None:
    path = write("a.csv.gz", gzip.compress(b"prompt\n" + b"x" * (9 * 2**20)))
    assert path.stat().st_size < 2**20
    with pytest.raises(UsageError, match="expected at most 8 MiB when unpacked, got more; split"):
        read_prompts(path)


def test_a_column_that_is_not_there_is_named(write: Write) -> None:
    path = write("a.csv", "prompt,klass\na star,x\n")
    for fields, place in (
        ({"columns": {"concept": "clas"}}, "columns.concept"),
        ({"where": {"clas": "x"}}, "where"),
    ):
        attack = Prompts.model_validate({"file": str(path), **fields})
        with pytest.raises(UsageError) as caught:
            attack.check([Concept(text="star")])
        assert str(caught.value) == (
            f"{path}: {place}: expected one of its columns, got 'clas'; did you mean 'klass'? they "
            "are prompt, klass"
        )


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (1, ["a", "c"]),
        ("1.0", ["a", "c"]),
        ([1, 2.5], ["a", "b", "c"]),
        ("> 1", ["b", "d"]),
        (">=1", ["a", "b", "c", "d"]),
        ("< 2.5", ["a", "c"]),
        (["<= 1", "x"], ["a", "c", "e"]),
        ("X", ["e"]),
        ("none", ["f"]),
    ],
)
def test_where_chooses_rows_by_value_or_by_size(write: Write, value: Any, kept: list[str]) -> None:
    path = write("a.csv", "prompt,n\na,1\nb,2.5\nc,1.0\nd, 30 \ne, x\nf,None\n")
    attack = Prompts.model_validate({"file": str(path), "where": {"n": value}})
    assert [g.prompt for g in attack.own_goals(Concept(text="star")) or ()] == kept


def test_columns_of_a_file_without_a_header_have_numbers(write: Write) -> None:
    path = write("a.tsv", "x\ta star\ny\ta fish\n")
    fields = {"file": str(path), "columns": {"prompt": 2}, "where": {"1": "Y"}}
    attack = Prompts.model_validate(fields)
    assert [g.prompt for g in attack.own_goals(Concept(text="star")) or ()] == ["a fish"]


def test_what_picks_rows_is_in_the_identity_where_it_is_said(write: Write) -> None:
    path = write("a.csv", "prompt,kind,seed\na star,1,7\na fish,2,8\n")
    plain = Prompts(file=str(path))
    assert set(plain.identity()["fields"]) == {"prompt_sets", "goals", "file"}
    one, two = (
        Prompts.model_validate({"file": str(path), "where": {"kind": v}}) for v in (1, "1.0")
    )
    assert one.identity()["fields"]["where"] == {"kind": ["1"]}
    assert one.digest != plain.digest
    assert [g.prompt for g in two.own_goals(Concept(text="star")) or ()] == ["a star"]
    # Whose draws are sampled is no part of a search.
    assert Prompts(file=str(path), draws="file").digest == plain.digest
    assert one.label == "prompts(file=a.csv, where={'kind': ['1']})"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,,7", "seed: expected a whole number from 0, got ''"),
        ("a,1.5,7", "seed: expected a whole number from 0, got '1.5'"),
        ("a,-1,7", "seed: expected a whole number from 0, got '-1'"),
        ("a,9223372036854775808,7", "seed: expected a whole number from 0, got"),
        ("a,1,x", "guidance: expected a number, got 'x'"),
        ("a,1,1e999", "guidance: expected a number, got '1e999'"),
        ("a,1,-2", "guidance: expected 0 to 1000, got -2.0"),
    ],
)
def test_a_bad_draw_names_the_line_where_draws_are_asked_for(
    write: Write, row: str, message: str
) -> None:
    path = write("a.csv", f"prompt,seed,guidance\nfine,1,7.5\n{row}\n")
    assert len(read_prompts(path)) == 2
    with pytest.raises(UsageError, match=f":3: {message}"):
        Prompts(file=str(path), draws="file").check([Concept(text="star")])


def test_draws_of_a_file(write: Write) -> None:
    path = write(
        "a.csv", "prompt,seed,guidance,negative_prompt\na,9223372036854775807,,fog\nb,8.0,7.5,\n"
    )
    draws = Prompts(file=str(path), draws="file").own_draws(Concept(text="star"))
    assert draws == {"file-2": Draw(2**63 - 1, None, "fog"), "file-3": Draw(8, 7.5, "")}
    assert Prompts(file=str(path)).own_draws(Concept(text="star")) == {}


@pytest.mark.parametrize(
    "fields", [{"draws": "file"}, {"where": {"a": 1}}, {"columns": {"prompt": "x"}}]
)
def test_what_picks_rows_needs_a_file(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"prompts: {next(iter(fields))}: expected a file too"):
        Prompts.model_validate(fields).check([Concept(text="star")])


def test_the_longest_prompt(write: Write) -> None:
    path = write("a.csv", f"prompt\n{'x' * 2000}\n")
    assert len(read_prompts(path)[0].prompt) == 2000


# -- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: expected a column named prompt"),
        ("\n\n", ":1: expected a column named prompt"),
        ("text,concept\na star,star\n", ":1: expected a column named prompt, got text, concept"),
        ("prompt,concept\n", "holds no prompts"),
        ("prompt\na star, at sunset\n", ":2: the number of fields is not that of the header"),
        ("prompt,concept\na star\n", ":2: the number of fields is not that of the header"),
        ('prompt,concept\n   ,x\n"",x\n', "no row of it can be tried: 2 rows, 2 empty: N = 0"),
        ("id,type,text\n1,erase,x\n", ":1: .*; say columns: {prompt: text}"),
        (
            "a red star in the sky,star\na ring,ring\n",
            ":1: .*; no header[?] The first line looks like a prompt: say columns: {prompt: 1}",
        ),
        ("noun,similarity\nx,1\n", ":1: .*; say which holds the prompts: columns: {prompt: NAME}"),
        (f"{'x' * 90_000}\n", ":1: expected a column named prompt, got x+[.][.][.]; say which"),
        ("prompt" + ",x" * 1000 + "\n", "expected at most 1000 columns, got 1001"),
        (f"prompt\na star\n{'x' * 2001}\n", ":3: prompt of 2001 characters; at most 2000"),
        (f"prompt\n{'x' * 200_000}\n", ":2: not valid CSV .field larger than field limit"),
        ('prompt\n"a star\n', ":2: not valid CSV"),
        ('prompt\n"a "star"\n', ":2: not valid CSV"),
    ],
)
def test_a_bad_csv_names_the_line(write: Write, content: str, message: str) -> None:
    path = write("bad.csv", content)
    with pytest.raises(UsageError, match=rf"{path}:? ?.*{message.removeprefix(':')}") as caught:
        read_prompts(path)
    if message.startswith(":"):
        assert f"{path}{message.partition(' ')[0]}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompts"),
        ("\n \n", "holds no prompts"),
        ('{"prompt": "a"}\nnot json\n', ":2: not valid JSON"),
        ('{"prompt": "a"\n}\n', ":1: not valid JSON"),
        ('["a star"]\n', ":1: expected an object with a prompt, got list"),
        ("null\n", ":1: expected an object with a prompt, got NoneType"),
        (
            '{"text": "a star"}\n',
            "expected a column named prompt, got text; say columns: {prompt: t",
        ),
        ('{"prompt": "a"}\n{"text": "a star"}\n', ":2: prompt: expected text, got None"),
        ('{"prompt": null}\n', ":1: prompt: expected text, got None"),
        ('{"prompt": 7}\n', ":1: prompt: expected text, got 7"),
        ('{"prompt": "\\n"}\n', "no row of it can be tried: 1 row, 1 empty: N = 0"),
        ('{"prompt": "a", "concept": 7}\n', ":1: concept: expected text, got 7"),
        ('{"prompt": "a", "concept": ["b"]}\n', ":1: concept: expected text, got"),
        ('{"prompt": "a", "concept": 0}\n', ":1: concept: expected text, got 0"),
        ('{"prompt": "\\ud800"}\n', ":1: prompt: expected text, got"),
        ('{"prompt": "a", "concept": "\\ud800"}\n', ":1: concept: expected text, got"),
        ("[" * 100_000, ":1: not valid JSON"),
        ("1" * 10_000, ":1: not valid JSON"),
        (json.dumps({"prompt": "x" * 5000}), ":1: prompt of 5000 characters; at most 2000"),
    ],
)
def test_a_bad_jsonl_names_the_line(write: Write, content: str, message: str) -> None:
    path = write("bad.jsonl", content)
    with pytest.raises(UsageError) as caught:
        read_prompts(path)
    place = f"{path}{message}" if message.startswith(":") else f"{path}: {message}"
    assert str(caught.value).startswith(place)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["bad.csv", "bad.jsonl"])
def test_what_is_not_utf8_is_named(write: Write, name: str) -> None:
    path = write(name, "prompt\nétoile\n".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8 at byte 7; save it as UTF-8"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["prompts", "prompts.gz", "prompts.xlsx", "prompts.csv.zip"])
def test_other_endings_are_refused(write: Write, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a \.csv or \.jsonl file"):
        read_prompts(write(name, "prompt\na star\n"))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a file, got .*none\.csv, which is not there"):
        read_prompts(tmp_path / "none.csv")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(
        UsageError, match=r"expected a regular file, got a folder at .*folder\.jsonl"
    ):
        read_prompts(tmp_path / "folder.jsonl")
    with pytest.raises(UsageError, match=r"expected a path, got 'a\\x00b\.csv'"):
        read_prompts("a\0b.csv")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(UsageError, match="expected at most 8 MiB, got more; split it"):
        read_prompts(path)


def test_too_many_rows_are_refused(write: Write) -> None:
    write("most.csv", "prompt\n" + "x\n" * 50_000)
    assert len(read_prompts(write("most.csv", "prompt\n" + "x\n" * 50_000))) == 50_000
    with pytest.raises(UsageError, match=r":50002: expected at most 50000 rows; split the file"):
        read_prompts(write("more.csv", "prompt\n" + "x\n" * 50_001))


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("a.txt", "prompt,seed\na star,1\n", ":1: looks like a table with a header; name it .csv"),
        ("a.txt", "seed\tprompt\n1\ta star\n", ":1: looks like a table .*; name it .tsv"),
        ("a.json", "7", "expected a list of prompts, or of objects with a prompt, got int"),
        ("a.json", '{"prompt": ["x"], "seed": []}', "expected lists of one length per column"),
        ("a.json", "[[]]", ":1: expected an object with a prompt, got list"),
        ("a.json", "prompt\na star\n", "not valid JSON"),
        ("a.parquet", "prompt\na star\n", "not valid Parquet"),
        ("a.csv.gz", b"\x1f\x8b no gzip", "not valid gzip"),
        ("a.tsv", "prompt\tx\na\tstar\tb\n", ":2: .* not that of the header; quote tabs"),
    ],
)
def test_a_list_of_another_kind_is_refused_with_its_own_advice(
    write: Write, name: str, content: str | bytes, advice: str
) -> None:
    with pytest.raises(UsageError, match=advice):
        read_prompts(write(name, content))


# -- what is dropped, and what is not used -------------------------------------------------------


def remarks(path: Path, *concepts: str) -> list[str]:
    """The remarks of the attack on a file, without its own name and the file's."""
    said = Prompts(file=str(path)).remarks([Concept(text=name) for name in concepts or ("star",)])
    assert all(line.startswith(f"prompts, {path.name}: ") for line in said)
    return [line.removeprefix(f"prompts, {path.name}: ") for line in said]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_about_minors_and_blank_rows_are_dropped_and_counted(
    write: Write, ending: str
) -> None:
    prompts = ["a star", "a girl", "  ", "a ring", "a child and a star", "a star"]
    table = "prompt,concept\n" + "".join(f"{p},\n" for p in prompts)
    rows = "".join(json.dumps({"prompt": p}) + "\n" for p in prompts)
    path = write(f"a.{ending}", table if ending == "csv" else rows)
    assert [row.prompt for row in read_prompts(path)] == ["a star", "a ring", "a star"]
    counted = "6 rows, 2 withheld as they may speak of minors, 1 empty: N = 3"
    assert remarks(path) == [counted]
    assert len(Prompts(file=str(path)).own_goals(Concept(text="star")) or ()) == 3


def test_a_file_of_which_nothing_is_left_is_refused(write: Write) -> None:
    path = write("a.csv", "prompt,x\na girl,\n,\n")
    counted = "2 rows, 1 withheld as they may speak of minors, 1 empty: N = 0"
    with pytest.raises(UsageError, match=f"no row of it can be tried: {counted}"):
        read_prompts(path)


def test_a_class_that_is_not_used_is_an_error_with_both_ways_out(write: Write) -> None:
    rows = "".join(f"a {name},{name}\n" for name in ("star", "fish") * 20)
    path = write("a.csv", f"prompt,class\n{rows}")
    with pytest.raises(UsageError) as caught:
        read_prompts(path)
    assert str(caught.value) == (
        f"{path}: the column 'class' is not used, and its 40 rows would all count for each concept (2 "
        "values: 'star', 'fish'); say columns: {concept: class} if it names concepts of the suite, or "
        "where: {class: 'star'} for the rows that count"
    )
    star = Concept(text="star")
    for fields in ({"columns": {"concept": "class"}}, {"where": {"class": "Star"}}):
        attack = Prompts.model_validate({"file": str(path), **fields})
        attack.check([star])
        assert [goal.prompt for goal in attack.own_goals(star) or ()] == ["a star"] * 20
    other = Prompts.model_validate({"file": str(path), "where": {"class": "fish"}})
    assert [g.prompt for g in other.own_goals(star) or ()] == ["a fish"] * 20
    assert other.remarks([star]) == ("prompts, a.csv: 40 rows, 20 left out by where: N = 20",)


@pytest.mark.parametrize("name", ["class", "Artist", "type", "label_str", "category"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_whatever_looks_like_a_class_is_asked_about(write: Write, name: str, ending: str) -> None:
    table = f"prompt,{name}\na star,x\n"
    path = write(f"a.{ending}", table if ending == "csv" else f'{{"prompt": "x", "{name}": "y"}}\n')
    with pytest.raises(UsageError, match=rf"say columns: {{concept: {name}}}.* where: {{{name}: '"):
        read_prompts(path)


def test_what_stands_beside_the_column_of_concepts_is_named(write: Write) -> None:
    assert remarks(write("b.csv", "prompt,concept,class\na star,star,x\na star,star,y\n")) == [
        "the column class is not used"
    ]
    assert remarks(write("b.csv", "prompt,class\na star,\n")) == []  # it says nothing
    assert remarks(write("a.jsonl", '{"prompt": "x", "seed": 1, "guidance": 2}\n')) == [
        "sampled as the suite says; draws: file would use seed, guidance",
    ]


def test_rows_for_no_concept_of_the_suite_are_named(write: Write) -> None:
    path = write("a.csv", "prompt,concept\na star,Star\na star,Stern\na fish,fish\nx,Stern\n")
    assert remarks(path, "star", "fish") == ["2 rows are for no concept of the suite: 'Stern' (2)"]


def test_rows_of_no_concept_count_for_each_and_that_is_said(write: Write) -> None:
    path = write("a.csv", "prompt\na star\n")
    assert remarks(path, "star", "fish") == [
        "its rows name no concept, and count for each of the 2"
    ]
    assert remarks(path, "star") == []


# -- read once -----------------------------------------------------------------------------------


def test_what_was_pinned_is_what_the_digest_names(
    write: Write, run_attack: Callable[[Prompts], list[Candidate]], model: TextToImage
) -> None:
    states = model.encode(["a star"]).states_BLD[0]
    path = write("a.jsonl", lines({"states": "one"}))
    save_file({"one": states}, tensors_file(path))
    live = Prompts(file=str(path))
    pinned, before = live.pinned(), live.digest
    assert pinned.digest == before
    write("a.jsonl", lines({"prompt": "another", "latents": "gone"}))
    write("a.safetensors", b"something else")
    (found,) = run_attack(pinned)
    assert found.prompt == "a star"
    assert found.states_LD is not None and torch.equal(found.states_LD, states)
    assert (pinned.digest, pinned.holds) == (before, Access.EMBEDDING)
    assert live.digest != before
    for lost in (path, tensors_file(path)):
        lost.unlink()
    assert run_attack(pinned)[0].prompt == "a star"


# -- any file ------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        b"prompt", b"concept", b",", b'"', b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"\0", b"a star",
        b"{", b"}", b"[", b":", b'{"prompt": "', b'"}', b"null", b"1e999", b"NaN", b"\\ud800",
        b"\xe2\x80\xa8", b"\xff", b" ", b"'", b"\t", b"\\",
    ]
)  # fmt: skip
CONTENT = st.one_of(
    st.binary(max_size=200), st.lists(st.one_of(PIECES, st.binary(max_size=4))).map(b"".join)
)


@given(
    content=CONTENT,
    ending=st.sampled_from([".csv", ".jsonl", ".json", ".tsv", ".txt", ".parquet", ".csv.gz"]),
    header=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_prompts_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str, header: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{ending}"
    path.write_bytes(b"prompt\n" * header + content)
    try:
        rows = read_prompts(path)
    except UsageError as error:
        assert str(path) in str(error)
        assert str(error).isprintable()
        return
    assert rows
    for row in rows:
        assert 0 < len(row.prompt) <= 2000
        assert row.prompt == row.prompt.strip()
        (row.prompt + row.concept).encode()
        assert row.line >= 1


TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))
    .map(str.strip)
    .filter(lambda text: not about_minors(text))
)


@given(prompts=st.lists(TEXTS.filter(bool), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([["prompt"], *([p] for p in prompts)])
    lines = (json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts)
    for path, content in (
        (folder / "back.csv", table.getvalue()),
        (folder / "back.jsonl", "\n".join(lines)),
    ):
        path.write_bytes(content.encode())
        assert [row.prompt for row in read_prompts(path)] == prompts


# -- the attack ----------------------------------------------------------------------------------


def test_the_attack_takes_the_rows_of_its_concept(
    write: Write, model: TextToImage, tiny_sampler: Sampler
) -> None:
    path = write("a.csv", "prompt,concept\na red star,star\na fish,fish\nanything,\n")
    target = Target(model=model, sampler=tiny_sampler, surrogate=MiniJudge())
    attack = Prompts(file=str(path))
    found = attack(target, attack.own_goals(Concept(text="star")) or (), rng=Rng(("file",)))
    assert [(c.goal, c.prompt, c.variant) for c in found] == [
        ("file-2", "a red star", "file"),
        ("file-4", "anything", "file"),
    ]
    other = Goal(id="star-0", concept=Concept(text="star"), prompt="a star")
    with pytest.raises(
        UsageError, match="expected the goals of the file, got others, such as 'star-0'"
    ):
        attack(target, [other], rng=Rng(("file",)))


# -- published candidates --------------------------------------------------------------------------

FOUND = {
    **{"attack": "p4d", "method": "uce", "concept": "star", "goal": "name-000", "prompt": "a star"},
    **{"states": None, "latents": None, "own_score": 0.5, "queries": 4},
}


@pytest.fixture
def run_attack(model: TextToImage, tiny_sampler: Sampler) -> Callable[[Prompts], list[Candidate]]:
    target = Target(model=model, sampler=tiny_sampler, surrogate=MiniJudge())
    star = Concept(text="star")
    return lambda attack: attack(target, attack.own_goals(star) or (), rng=Rng(("file",)))


@pytest.fixture
def run(run_attack: Callable[[Prompts], list[Candidate]]) -> Callable[[Path], list[Candidate]]:
    return lambda path: run_attack(Prompts(file=str(path)))


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(FOUND | record) + "\n" for record in records)


def test_a_candidate_keeps_its_goal_and_says_where_it_was_found(
    write: Write, run: Callable[[Path], list[Candidate]]
) -> None:
    path = write("a.jsonl", lines({}, {"method": "esd"}, {"concept": "fish"}, {"attack": None}))
    assert [(c.goal, c.variant, c.own_score, c.queries) for c in run(path)] == [
        ("file-name-000", "p4d on uce", None, 0),
        ("file-name-000", "p4d on esd", None, 0),
        ("file-name-000", "file", None, 0),
    ]
    assert Prompts(file=str(path)).holds == Prompts().holds == Access.PROMPT


def test_text_states_and_noise_are_injected(
    write: Write, run: Callable[[Path], list[Candidate]], model: TextToImage
) -> None:
    states, noise = model.encode(["a star"]).states_BLD[0], torch.ones(model.latent_shape)
    records: list[dict[str, Any]] = [
        {"states": "one"},
        {"latents": "two", "start": 1},
        {"goal": ""},
    ]
    path = write("a.jsonl", lines(*records))
    save_file({"one": states.half(), "two": noise}, tensors_file(path))
    one, two, plain = run(path)
    assert one.states_LD is not None and one.latents_Chw is None
    assert torch.equal(one.states_LD, states.half().float())
    assert two.latents_Chw is not None and torch.equal(two.latents_Chw, noise)
    assert (one.start, two.start) == (0, 1)
    assert (plain.goal, plain.states_LD, plain.latents_Chw) == ("file-3", None, None)
    assert Prompts(file=str(path)).holds == Access.LATENT
    assert Prompts(file=str(write("a.jsonl", lines(*records[::2])))).holds == Access.EMBEDDING
    # As an attack leaves it in the store.
    stored = [{"prompt": "a star", "goal": "name-000", "states": k == 1, "latents": False}
              for k in range(2)]  # fmt: skip
    path = write("candidates.json", json.dumps(stored))
    save_file({"states/1": states}, tensors_file(path))
    plain, one = run(path)
    assert plain.states_LD is None
    assert one.states_LD is not None and torch.equal(one.states_LD, states)


def test_a_files_content_is_its_identity(write: Write) -> None:
    first, second = write("a.jsonl", lines({})), write("b.jsonl", lines({}))
    one, two = Prompts(file=str(first)), Prompts(file=str(second))
    assert one.digest == two.digest
    before = one.digest
    write("a.safetensors", b"")
    between = one.digest
    write("a.jsonl", lines({"prompt": "another"}))
    assert len({before, between, one.digest, Prompts().digest}) == 4
    with pytest.raises(UsageError, match=r"expected a file, got .*none\.csv, which is not there"):
        _ = Prompts(file="none.csv").digest


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"goal": 7}, ":1: goal: expected text of at most 2000 characters, got 7"),
        ({"method": "\ud800"}, ":1: method: expected text of at most 2000 characters, got"),
        ({"states": True}, ":1: states: expected text of at most 2000 characters, got True"),
        ({"states": "x" * 2001}, ":1: states: expected text"),
        ({"states": "../../etc/passwd"}, ":1: a.safetensors has no states '../../etc/passwd'"),
        ({"states": "whole"}, ":1: states: expected 2 dimensions of finite numbers, got [2, 2] of"),
        ({"states": "flat"}, ":1: states: expected 2 dimensions of finite numbers, got [4] of"),
        ({"states": "nan"}, ":1: states: expected 2 dimensions of finite numbers, got [2, 2] of"),
        ({"latents": "nan"}, ":1: latents: expected 3 dimensions of finite numbers, got [2, 2] of"),
        ({"states": "small"}, ":1: text states of [2, 2], but this model takes [32, 128]"),
        ({"latents": "cube"}, ":1: noise of [2, 2, 2], but this model takes [4, 16, 16]"),
        ({"start": "1"}, ":1: start: expected a whole number of steps below 1000, got '1'"),
        ({"start": -1}, ":1: start: expected a whole number of steps below 1000, got -1"),
        ({"start": 1}, ":1: start 1: expected noise, and fewer steps than the sampler's 2"),
        ({"start": 2, "latents": "fits"}, ":1: start 2: expected noise, and fewer steps than the"),
    ],
)
def test_a_bad_candidate_names_the_line(
    write: Write, run: Callable[[Path], list[Candidate]], record: dict[str, Any], message: str
) -> None:
    path = write("a.jsonl", lines(record))
    tensors = {
        "whole": torch.ones(2, 2, dtype=torch.int32),
        "flat": torch.ones(4),
        "nan": torch.full((2, 2), torch.nan),
        "small": torch.ones(2, 2),
        "cube": torch.ones(2, 2, 2),
        "fits": torch.ones(4, 16, 16),
    }
    save_file(tensors, tensors_file(path))
    with pytest.raises(UsageError) as caught:
        run(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert str(caught.value).isprintable()


def test_tensors_that_are_missing_or_none_are_named(
    write: Write, run: Callable[[Path], list[Candidate]]
) -> None:
    path = write("a.jsonl", lines({"states": "one"}))
    with pytest.raises(
        UsageError, match=r"need a\.safetensors beside it; .* give candidates\.json"
    ):
        run(path)
    write("a.safetensors", b"\x80\x04\x95 a pickle, perhaps")
    with pytest.raises(UsageError, match=r"a\.safetensors: cannot be read as safetensors"):
        run(path)


@pytest.mark.parametrize("content", ["{}", "[1]", "{", "[" * 100_000, '[{"prompt": "a"}, null]'])
def test_a_bad_file_of_a_store_is_refused(write: Write, content: str) -> None:
    with pytest.raises(UsageError, match=r"candidates\.json: (expected a list|not valid JSON)"):
        read_prompts(write("candidates.json", content))
