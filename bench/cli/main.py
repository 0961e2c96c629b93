"""The command line: plan, run, report, rehearse, ls, verify, convert, compare, perf, ...; ``mini`` is the miniature's.

The exit code is 0 where all is well, 1 where some cells failed or something is damaged, and 130
where it was interrupted. It is 2 where the request was wrong or the place is unfit (a full disk,
missing rights). A closed pipe changes neither the work nor the code: `tvc-bench run | head -1`
computes everything and writes the report.
"""

from __future__ import annotations

import gc
import logging
import os
import sys

from cyclopts import App

from bench.cli.board import add, build
from bench.cli.board import check as check_board
from bench.cli.checkpoints import compare, convert
from bench.cli.measured import paper, perf, validity
from bench.cli.miniature import bases, carriers, check, train
from bench.cli.output import err, out
from bench.cli.own import evaluate
from bench.cli.rehearsal import protocols, rehearse
from bench.cli.stored import ls, verify
from bench.cli.suites import plan, report, run
from bench.core import heap
from bench.core.digest import StoreError
from bench.core.environment import line
from bench.core.errors import UsageError, shown
from bench.core.streams import Lost, patient
from bench.core.terminal import PlainFormatter

__all__ = ["app", "main"]

app = App(
    name="tvc-bench",
    help="Adversarial robustness benchmark for concept erasure in text-to-image diffusion models.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main says how to go on
    console=out,
    error_console=err,
)

mini = App(name="mini", help="The miniature: a small, real diffusion model of a drawn world.")
leaderboard = App(name="leaderboard", help="Entries of published runs: written, checked, shown.")
for _command in (
    *(
        evaluate,
        plan,
        run,
        report,
        rehearse,
        protocols,
        ls,
        verify,
        convert,
        compare,
        paper,
        perf,
        validity,
        leaderboard,
        mini,
    ),
):
    app.command(_command)
for _of_mini in (train, check, bases, carriers):
    mini.command(_of_mini)
leaderboard.command(add)
leaderboard.command(build)
leaderboard.command(check_board, name="check")


_MODELLESS = ("plan", "report", "ls", "verify")
"""The commands that load no network."""


def _collect_seldom() -> None:
    """Looks for garbage less often: imports alone make a million objects, and hardly one is garbage."""
    gc.set_threshold(50_000, 20, 20)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``tvc-bench``; ends the process with the exit code."""
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("DO_NOT_TRACK", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in _MODELLESS:
        heap.give_back()
        _collect_seldom()  # not where tensors may hang in circles
    else:
        heap.keep()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for noisy in ("diffusers", "transformers", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        with patient():
            code = _told(arguments)
    except Lost as error:  # the work is done all the same
        err.print(f"error: {error}; the work is done all the same", soft_wrap=True)
        raise SystemExit(2) from None
    except OSError as error:  # not even the standard streams could be looked after
        err.print(f"error: {line(error)}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    raise SystemExit(code)


def _told(arguments: list[str] | None) -> int:
    """Runs a command; an error that the user can mend is one line. Returns the exit code."""
    try:
        for word in sys.argv[1:] if arguments is None else arguments:
            if not word.isprintable() and any("\udc80" <= c <= "\udcff" for c in word):
                raise UsageError(f"expected words in UTF-8, got {shown(word)}; rename it")
        return app(arguments, result_action="return_value", exit_on_error=True) or 0
    except (UsageError, StoreError) as error:
        said, code = f"error: {error}", 2
    except OSError as error:
        said, code = f"error: {line(error)}", 2
    except KeyboardInterrupt:
        said, code = "interrupted; run the same command to go on", 130
    err.print(said, soft_wrap=True)
    return code
