"""Is it this person? The likeness of a face to a user's reference photographs.

MACE (Lu et al. 2024, https://arxiv.org/abs/2403.06135) judges celebrities by GIPHY's detector, whose
code no longer runs. This judge is not that one: it compares embeddings of any network of transformers.
As there, an image without a face leaves the denominator: the judge abstains, and tables count it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from bench.core.bounds import Number
from bench.core.errors import UsageError, shown
from bench.core.files import expanded, is_folder, regular
from bench.core.image_files import IMAGES, read_image
from bench.core.lazy import F, torch
from bench.core.spec import applied, content, runtime
from bench.interfaces import Concept, Judge
from bench.judges.nudenet import faces
from bench.toolkit.from_folder import FromFolder

if TYPE_CHECKING:
    from torch import Tensor

    from bench.toolkit.network_folder import Loaded

__all__ = ["FaceIdentity"]

_SURE: Final = 0.3
_MARGIN: Final = 0.2
_MOST: Final = 1000


class FaceIdentity(FromFolder, Judge):
    """The cosine of an image's embedding with the mean of the references', in [-1, 1].

    Attributes:
        threshold: Depends on the network: its paper says from which cosine on two faces are one person.
        references: A folder with a folder of photographs per person, named as the concept is. Required.
        faces: ``found``: NudeNet's detector finds the largest face of each image, which is cut out. An image
            without one has no score. ``whole``: images and references are looked at as they are.
    """

    name: ClassVar[str] = "face_identity"
    network_kind: ClassVar[str] = ""  # any: an embedding has no class of its own
    network_class: ClassVar[str] = "AutoModel"
    needs: ClassVar[tuple[str, ...]] = ("weights", "references")
    abstains: ClassVar[bool] = True
    threshold: Number = applied(0.5)
    references: str = runtime("")
    faces: Literal["found", "whole"] = "found"

    def files(self) -> tuple[Path, ...]:
        """The network's files, and every photograph."""
        photographs = sorted(_photographs(expanded(self.references))) if self.references else []
        return (*super().files(), *photographs)

    def check_base(self, folder: Path | None) -> None:
        """Refuses a network or a folder of references that is missing or unfit."""
        super().check_base(folder)
        if not is_folder(expanded(self.references)):
            message = f"expected a folder of folders, one per person, got {shown(self.references)}"
            raise UsageError(message, at=(self.name, "references"))

    def check_concept(self, concept: Concept) -> None:
        """Refuses a person without a photograph that can be read and, if faces are found, shows one."""
        if not self.references or not self.weights:
            return
        for path in self._paths(concept):
            image = read_image(path)
            if self.faces == "found" and _face(image) is None:
                raise UsageError(
                    f"{self.name}: expected a face in {path}, got none; give another photograph"
                )

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """The likeness to a person.

        Args:
            images_B3HW: float32 in [0, 1].
            concept: The person.

        Returns:
            float32 [B, 1]; NaN for an image without a face, of which the judge says nothing.

        Raises:
            UsageError: there is no photograph of the person.
        """
        device = str(images_B3HW.device)
        loaded = self._loaded(device)
        paths = tuple(self._paths(concept))
        known = _known(loaded, paths, tuple(content(path) for path in paths), self.faces)
        scores = images_B3HW.new_full((len(images_B3HW), 1), torch.nan, dtype=torch.float32)
        for number, image in enumerate(images_B3HW.float()):
            shown_ = image if self.faces == "whole" else _face(image)
            if shown_ is not None:
                scores[number, 0] = (_embedding(loaded, shown_) * known).sum()
        return scores

    def _paths(self, concept: Concept) -> list[Path]:
        """The photographs of a person."""
        folder = expanded(self.references) / concept.text
        found = sorted(
            path for path in _photographs(expanded(self.references)) if path.parent == folder
        )
        if not found:
            raise UsageError(
                f"{self.name}: expected photographs of {concept.text!r} in {folder}, got none; put "
                "some there"
            )
        return found


def _photographs(folder: Path) -> list[Path]:
    """Every photograph of a folder of folders.

    Raises:
        UsageError: they are too many.
    """
    found = (
        [p for p in folder.glob("*/*") if p.suffix.lower() in IMAGES] if is_folder(folder) else []
    )
    if len(found) > _MOST:
        raise UsageError(f"{folder}: expected at most {_MOST} photographs, got {len(found)}")
    return [regular(path) for path in found]


def _face(image_3HW: Tensor) -> Tensor | None:
    """The largest face of an image, with a margin; ``None`` where there is none."""
    found = faces(image_3HW[None])[0]
    sure = [box for box in found if box.score >= _SURE]
    if not sure:
        return None
    box = max(sure, key=lambda b: b.width * b.height)
    height, width = image_3HW.shape[-2:]
    more_x, more_y = _MARGIN * box.width, _MARGIN * box.height
    left, right = max(0, box.left - more_x), min(width, box.left + box.width + more_x)
    top, bottom = max(0, box.top - more_y), min(height, box.top + box.height + more_y)
    cut = image_3HW[:, round(top) : round(bottom), round(left) : round(right)]
    return cut if min(cut.shape[1:]) > 1 else None


@lru_cache(maxsize=64)
def _known(loaded: Loaded, paths: tuple[Path, ...], sums: tuple[str, ...], way: str) -> Tensor:
    """The mean of the references' embeddings, of length 1; ``sums`` name their content."""
    seen = []
    for path in paths:
        image = read_image(path).to(loaded.device)
        face = image if way == "whole" else _face(image)
        if face is not None:
            seen.append(_embedding(loaded, face))
    if not seen:
        raise UsageError(f"expected a face in a photograph of {paths[0].parent}, got none")
    return F.normalize(torch.stack(seen).mean(0), dim=-1)


def _embedding(loaded: Loaded, image_3HW: Tensor) -> Tensor:
    """The embedding [E] of an image, of length 1."""

    def look(pixels: Tensor) -> Tensor:
        network: Any = loaded.network
        if hasattr(network, "get_image_features"):
            out = network.get_image_features(pixel_values=pixels)
        else:
            out = network(pixel_values=pixels)
        pooled = getattr(out, "pooler_output", None)
        vector = out.last_hidden_state.flatten(2).mean(-1) if pooled is None else pooled
        return vector.flatten(1)

    return F.normalize(loaded.each(image_3HW[None], look)[0][0], dim=-1)
