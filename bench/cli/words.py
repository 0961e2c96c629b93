"""Words that several commands take: their types, names and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = [
    "STORE",
    "AllowCode",
    "BaseArg",
    "Batch",
    "Compile",
    "Device",
    "Estimate",
    "Extend",
    "Json",
    "KernelWords",
    "Limit",
    "Only",
    "Out",
    "PerGpu",
    "Publish",
    "Ray",
    "Seed",
    "Shard",
    "StoreArg",
    "SuiteArg",
    "Workers",
]

STORE = Path(".store")
"""Where results are kept if nothing is said."""

SuiteArg = Annotated[str, Parameter(help="A shipped suite (see `ls suites`) or a YAML file.")]
Only = Annotated[
    tuple[str, ...],
    Parameter(
        name="--only",
        help="Keep methods, attacks or concepts that match the glob; may be given often.",
        negative="",
    ),
]
Limit = Annotated[
    int | None, Parameter(help="At most so many prompts per set; the result is marked partial.")
]
Seed = Annotated[
    int | None, Parameter(help="Overrides the suite's seed; the result goes to results/drafts.")
]
BaseArg = Annotated[
    str | None,
    Parameter(
        name="--base",
        help="In place of the suite's base: a miniature, a folder, or a hub id with its commit, ID@COMMIT. "
        "The results are those of another suite, SUITE-on-BASE.",
    ),
]
StoreArg = Annotated[Path, Parameter(name="--store", help="Where results are kept.")]
Out = Annotated[
    Path | None,
    Parameter(
        name="--out",
        help="Where the report goes: an empty folder, or one with an earlier report of the suite. Default "
        "results/runs/<suite>, or results/drafts/<suite> if partial, of another seed, or of your own file "
        "that has the name of a shipped suite.",
    ),
]
Publish = Annotated[
    bool,
    Parameter(
        name="--publish",
        negative="",
        help="Write the committed report, results/<suite>: for maintainers, of a whole shipped suite.",
    ),
]
Extend = Annotated[
    Path | None,
    Parameter(
        name="--extend",
        help="The folder of a published report: its lines are taken from there, and only the others are computed.",
    ),
]
AllowCode = Annotated[
    bool,
    Parameter(
        name="--allow-code",
        negative="",
        help="Let your suite file run the code that it names by module:Class; give it only to files you trust.",
    ),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for machines.")]
Device = Annotated[str, Parameter(help="A torch device: cpu, cuda, cuda:1, ...")]
Batch = Annotated[
    str, Parameter(name="--batch-size", help="Images worked on at once: a number, or auto.")
]
Compile = Annotated[
    bool,
    Parameter(
        name="--compile",
        negative="",
        help="Compile the networks: minutes at first, then faster, with results that differ by rounding. "
        "For long runs on a GPU.",
    ),
]
KernelWords = Annotated[
    str,
    Parameter(
        name="--kernels",
        help="Of a GPU: auto measures at load, or words such as 'flash channels_last fused'; what they leave out is "
        "measured. Results differ by rounding. docs/performance.md says more.",
    ),
]
Workers = Annotated[
    str | None,
    Parameter(
        help="Compute by so many processes on this machine, by Ray: a number, or auto for one per core, or per GPU. "
        "docs/scale.md says more.",
    ),
]
Ray = Annotated[
    str | None,
    Parameter(
        name="--ray",
        help="Compute on the Ray cluster of this address, by all of it or by --workers.",
    ),
]
PerGpu = Annotated[
    int, Parameter(name="--per-gpu", help="Workers on each GPU, with --workers or --ray.")
]
Shard = Annotated[
    str | None,
    Parameter(
        help="Compute one share of N, I/N: for job arrays. The last share that is done writes the report.",
    ),
]
Estimate = Annotated[
    bool,
    Parameter(
        name="--estimate",
        negative="",
        help="Say how many hours the rest will take instead, from what the store's own cells took; on --workers alike.",
    ),
]
