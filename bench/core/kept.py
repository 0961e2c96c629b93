"""Keeps what was made of files, for as long as the files are what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from bench.core.errors import UsageError
from bench.core.spec import content

__all__ = ["kept_while_same"]

P = ParamSpec("P")
T = TypeVar("T")
_Sums = tuple[tuple[Path, str], ...]


def kept_while_same(
    files: Callable[P, Iterable[Path]], *, most: int
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Remembers what a function read, as :func:`functools.lru_cache` does, by the content of the files too.

    Weights that are trained again at the same path are another network: the old one's scores would be
    stored under the new one's name.

    Args:
        files: Of the function's arguments, the files that it reads.
        most: How many results are kept.

    Raises:
        UsageError: when the function is called: a file changed while it was read.
    """

    def keeping(make: Callable[P, T]) -> Callable[P, T]:
        def sums(*args: P.args, **named: P.kwargs) -> _Sums:
            return tuple((path, content(path)) for path in files(*args, **named))

        @lru_cache(maxsize=most)
        def made(before: _Sums, *args: P.args, **named: P.kwargs) -> T:
            value = make(*args, **named)
            if apart := set(before) ^ set(sums(*args, **named)):
                raise UsageError(
                    f"expected {min(apart)[0]} to stay as it was while it was read, got another; start again"
                )
            return value

        @wraps(make)
        def kept(*args: P.args, **named: P.kwargs) -> T:
            # As with any lru_cache, who gives what cannot be hashed is told so by a TypeError.
            return made(sums(*args, **named), *args, **named)  # type: ignore[arg-type]

        return kept

    return keeping
