"""Every layout of published lists loads with the right rows, or is refused in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import UsageError
from bench.interfaces.prompt_source import PromptSource
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.layouts import LAYOUTS
from bench.toolkit.prompt_files.read import read_source
from bench.toolkit.prompt_files.telling import remarks_of
from tests.bench.toolkit.prompt_samples import SAMPLES, Sample

# The checkout holds `shared`, or a folder around it does.
FOLDERS = [parent / "shared" / "data" / "prompts" for parent in Path(__file__).parents]
PUBLISHED = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])

EXPECTED = {
    "advunlearn-coco_object_retain.csv": ("COCO", 243, "chair", 243),
    "esd-imagenet_prompts.csv": ("ESD, ImageNet", 1860, "tench", 1),
    "esd-small_imagenet_prompts.csv": ("UCE, ESD and Receler", 100, "church", 10),
    "esd-vangogh_prompts.csv": ("ESD, artists", 50, "Vincent van Gogh", 50),
    "p4d-coco30k-car_esd.csv": ("COCO", 90, "car", 90),
    "p4d-small_imagenet_prompts_frenchhorn.csv": ("P4D", 8, "French horn", 8),
    "rece-short_niche_art_prompts.csv": ("ESD, artists", 100, "Thomas Kinkade", 20),
    "receler-cifar10_paraphrase.csv": ("UCE, ESD and Receler", 495, "bird", 50),
    "receler-cifar10_simple.csv": ("UCE, ESD and Receler", 1000, "bird", 100),
    "uce-imagenette.csv": ("UCE, ESD and Receler", 5000, "church", 500),
    "uda-church.csv": ("UnlearnDiffAtk", 49, "church", 49),
    "uda-coco_10k.csv": ("COCO", 9709, "anything", 9709),
    "uda-garbage_truck.csv": ("UnlearnDiffAtk", 49, "garbage truck", 49),
    "uda-parachute.csv": ("UnlearnDiffAtk", 49, "parachute", 49),
    "uda-tench.csv": ("UnlearnDiffAtk", 49, "tench", 49),
    "uda-vangogh.csv": ("ESD, artists", 50, "Vincent van Gogh", 50),
}
"""Of each published file: its layout, the rows that can be tried, a concept, and the rows for it."""
BROKEN = {
    "rece-robust_imagenette.csv": ":7: the number of fields is not that of the header; quote commas"
}


def written(sample: Sample, folder: Path) -> PromptSource:
    (folder / sample.name).write_text(sample.content)
    return PromptSource(file=str(folder / sample.name))


def layout_of(file: PromptFile) -> str:
    return file.meaning.layout.name if file.meaning.layout else ""


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_layout_gives_the_right_rows_or_one_line(sample: Sample, tmp_path: Path) -> None:
    source = written(sample, tmp_path)
    if sample.refused:
        with pytest.raises(UsageError) as caught:
            read_source(source)
        assert str(caught.value).startswith(f"{source.file}{sample.refused}")
        return
    file = read_source(source)
    assert layout_of(file) == sample.layout
    assert tuple(row.prompt for row in file.of("church")) == sample.rows
    assert all(row.draw is None for row in file.rows)
    said = " ".join(remarks_of(file, ["church"]))
    assert (f"the layout of {sample.layout}: " in said) == bool(sample.layout)
    drawn = source.model_copy(update={"draws": "file"})
    if sample.draw is None:
        with pytest.raises(UsageError, match="draws: file: expected a column of seeds, got none"):
            read_source(drawn)
        return
    assert "sampled as the suite says; draws: file would use" in said
    draw = read_source(drawn).of("church")[0].draw
    assert draw is not None and (draw.seed, draw.guidance) == sample.draw
    assert "sampled as the file says, one image per row" in " ".join(
        remarks_of(read_source(drawn), ["church"])
    )


def test_every_layout_has_a_sample_and_a_line_of_the_page() -> None:
    names = {layout.name for layout in LAYOUTS}
    assert names == {s.layout for s in SAMPLES if s.layout}
    page = (Path(__file__).parents[3] / "docs" / "prompt-files.md").read_text()
    assert names == {name for name in names if f"| {name} |" in page}


def test_a_headerless_list_is_read_as_the_line_says(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('7,"An old chapel, on a hill"\n8,A white chapel\n')
    columns = {"prompt": 2, "seed": 1}
    source = PromptSource.model_validate(
        {"file": str(tmp_path / "a.csv"), "columns": columns, "draws": "file"}
    )
    rows = read_source(source).rows
    assert [(r.line, r.prompt, r.draw.seed if r.draw else None) for r in rows] == [
        (1, "An old chapel, on a hill", 7),
        (2, "A white chapel", 8),
    ]


def test_the_table_of_all_layouts(tmp_path: Path) -> None:
    """Prints it: ``pytest -s``."""
    outcome = {}
    for sample in SAMPLES:
        try:
            file = read_source(written(sample, tmp_path))
            outcome[sample.of] = f"{layout_of(file) or 'no known layout'}: {file.counted}"
        except UsageError as error:
            outcome[sample.of] = f"refused: {str(error).removeprefix(str(tmp_path) + '/')}"
    _print(outcome)
    assert sum(line.startswith("refused") for line in outcome.values()) == 5


def test_the_published_files_as_they_are() -> None:
    """Prints the table: ``pytest -s``."""
    if not PUBLISHED.is_dir():
        pytest.skip("the published files are not here")
    names = sorted(path.name for path in PUBLISHED.glob("*.csv"))
    assert names == sorted([*EXPECTED, *BROKEN])
    outcome = {}
    for name in names:
        try:
            file = read_source(PromptSource(file=str(PUBLISHED / name)))
        except UsageError as error:
            assert str(error).startswith(f"{PUBLISHED / name}{BROKEN[name]}")
            outcome[name] = f"refused: {str(error).removeprefix(str(PUBLISHED) + '/')}"
            continue
        layout, count, concept, rows = EXPECTED[name]
        assert (layout_of(file), len(file.tried), len(file.of(concept))) == (layout, count, rows)
        outcome[name] = f"{layout}: {file.counted}; for {concept}: {rows}"
    _print(outcome)


def _print(outcome: dict[str, str]) -> None:
    wide = max(map(len, outcome))
    print()  # noqa: T201
    for name, line in outcome.items():
        print(f"{name:{wide}}  {line}")  # noqa: T201
