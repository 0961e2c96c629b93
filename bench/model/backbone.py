"""Loads the networks of a base, by its family, once and for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from bench.core.errors import UsageError, in_one_line, shown
from bench.model.choosing import settle
from bench.model.families.family import Dtype, Family
from bench.model.kernels.choice import AUTO, asked_for
from bench.model.pipeline.inspect import BaseFiles, inspect_base, nothing_else

__all__ = ["load_backbone", "load_inspected"]


def load_backbone(
    source: str,
    *,
    revision: str | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    compile: bool = False,
    kernels: str = AUTO,
) -> Family:
    """Loads a pipeline: :func:`bench.model.pipeline.inspect.inspect_base`, then :func:`load_inspected`.

    Args:
        source: ``miniature``, a local diffusers folder, or a hub id (which needs ``revision``, a
            commit).
        revision: Commit of the hub repository.
        dtype: Precision of all networks.
        device: A torch device.
        compile: See :meth:`bench.model.families.family.Family.compile_networks`.
        kernels: See :func:`load_inspected`.

    Raises:
        UsageError: nothing usable there: no such folder, pickled weights only, damaged files,
            missing parts, another kind of model.
    """
    files = inspect_base(source, commit=revision)
    return load_inspected(files, dtype=dtype, device=device, compile=compile, kernels=kernels)


def load_inspected(
    files: BaseFiles,
    *,
    dtype: Dtype = "float32",
    device: str = "cpu",
    compile: bool = False,
    kernels: str = AUTO,
) -> Family:
    """Loads the networks of a base that was inspected.

    Args:
        files: From :func:`bench.model.pipeline.inspect.inspect_base`.
        dtype: Precision of all networks.
        device: A torch device.
        compile: See :meth:`bench.model.families.family.Family.compile_networks`.
        kernels: Of a GPU, by name; see :func:`bench.model.kernels.choice.asked_for`. Those that are not named
            are chosen by measurement. On a CPU nothing is measured, and none can be named.

    Raises:
        UsageError: the libraries cannot load it, its weights are not those that its
            configurations ask for, or the kernels do not run on the device.
    """
    asked = asked_for(kernels)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with nothing_else(files) as view, _told(files, view):
        backbone = files.family.load(
            view,
            classes=files.classes,
            variants=files.variants,
            dtype=dtype,
            digest=files.digest,
            home=files.folder,
        )
    settle(backbone, device, asked)
    if compile:
        backbone.compile_networks()
    return backbone


@contextmanager
def _told(files: BaseFiles, view: Path) -> Iterator[None]:
    """Turns whatever the libraries raise over a folder's files, seen in a view, into one line."""

    def real(text: str) -> str:
        return text.replace(str(view), str(files.folder))

    try:
        yield
    except UsageError as error:
        raise UsageError(f"base {shown(files.source)}: {real(str(error))}") from error
    except torch.OutOfMemoryError:
        raise  # not the folder's fault
    except Exception as error:  # they raise dozens of kinds, and promise none
        said = real(in_one_line(error))
        raise UsageError(f"base {shown(files.source)}: could not be loaded: {said}") from error
