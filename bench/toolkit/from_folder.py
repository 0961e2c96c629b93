"""A plug-in that looks through a network of transformers, whose folder a user gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.core.errors import UsageError
from bench.core.spec import Spec, name_of, runtime, weights_digest, with_name
from bench.toolkit.network_folder import check_folder, folder_of, load, used_files

if TYPE_CHECKING:
    from bench.toolkit.network_folder import Loaded

__all__ = ["FromFolder"]


class FromFolder(Spec):
    """Base of judges with a network of the user's.

    Its identity is the content of the folder, wherever that lies.

    Attributes:
        weights: A source of :mod:`bench.toolkit.network_folder`. Required.
        network_kind: The end of the name of the network's class.
        network_class: Its class in transformers.
        reads_texts: Whether the network reads texts too.
    """

    needs: ClassVar[tuple[str, ...]] = ("weights",)
    network_kind: ClassVar[str] = ""
    network_class: ClassVar[str] = ""
    reads_texts: ClassVar[bool] = False
    weights: str = runtime("")

    def files(self) -> tuple[Path, ...]:
        """The settings, words and weights of the network."""
        return used_files(folder_of(self.weights)) if self.weights else ()

    @property
    def network(self) -> str:
        """Its weights: other labels, questions or thresholds are asked of the same eyes."""
        return weights_digest(FromFolder.files(self), self.weights)

    def check_base(self, folder: Path | None) -> None:
        """Refuses a network that is missing or unfit; it is read, for only that tells."""
        self.check_files()
        try:
            self._loaded("cpu")
        except UsageError as error:
            raise error.below(self.name, "weights") from error

    def check_files(self) -> None:
        """Refuses a folder that does not hold the files of such a network; none is loaded.

        Raises:
            UsageError: in one line.
        """
        try:
            check_folder(self.weights, self.network_kind)
        except UsageError as error:
            raise error.below(self.name, "weights") from error

    def _loaded(self, device: str) -> Loaded:
        folder = folder_of(self.weights)
        return load(folder, self.network_class, device, words=self.reads_texts)

    def _described(self) -> str:
        """The label, with the name of the folder, which tells networks apart."""
        own, given = super()._described(), name_of(self.weights).partition("@")[0]
        return with_name(own, given) if given else own
