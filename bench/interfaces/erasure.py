"""The plug point of erasure methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from bench.core.errors import UsageError
from bench.core.progress import Progress, silent
from bench.core.rng import Rng
from bench.core.spec import Spec
from bench.interfaces.concept import Concept, bare
from bench.interfaces.context import Context, keep_door
from bench.model.families.family import Family
from bench.model.families.known import family_in
from bench.model.families.roles import Role
from bench.model.hooks import Fitted
from bench.model.slots import Slot

if TYPE_CHECKING:
    from bench.model.text_to_image import TextToImage

__all__ = ["Erasure"]


class Erasure(Spec, ABC):
    """A concept-erasure method: one paper, one file. See ``docs/add-a-method.md`` for a complete example.

    An author writes :meth:`erase`; everybody else calls the method: ``method(model, concepts, rng=rng)``.

    Attributes:
        slots: Which slots of the model it may fill; the door holds it to that.
        bypassed_by: What makes it void by construction.
        control: It is a control, not a contender.
    """

    kind: ClassVar[str] = "method"
    slots: ClassVar[frozenset[Slot]] = frozenset()
    bypassed_by: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Keeps the door as it is."""
        keep_door(cls, Erasure, "erase")

    @abstractmethod
    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The edited model.

        This is what an author writes, and nobody else calls: the door has looked at the concepts
        and the base, and looks at the edit.

        Args:
            model: The unedited model; it is a value and is not changed.
            concepts: What to erase, together; one or more, without the prompts that test the edit.
            ctx: Its randomness, whom to tell of long work, and what the edit's record should know.

        Raises:
            ValueError: the concepts or the model do not suit the method.
        """

    @final
    def __call__(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> TextToImage:
        """Erases concepts, and holds the method to what it declares.

        The images and steps that it spends, and its notes, are kept by ``model.meter``.

        Args:
            model: Where the edit starts; it is a value and is not changed.
            concepts: What to erase, together; the method is not told the prompts of any.
            rng: The only source of randomness.
            progress: Told of long work.

        Returns:
            The edited model; it shares the networks and the meter.

        Raises:
            UsageError: no concept, an empty one, or a base that does not suit the method.
            ValueError: the concepts or the model do not suit the method; or it changed what it does
                not declare, or to values that are not finite.
        """
        if not concepts:
            raise UsageError(f"{self.name}: expected at least one concept to erase, got none")
        if blank := sum(not concept.text.strip() for concept in concepts):
            raise UsageError(
                f"{self.name}: expected concepts with a name, got {blank} without; give each a text"
            )
        self._check_roles(type(model.backbone))
        self.check_base(model.folder)
        context = Context(rng, progress, model.meter)
        edited = self.erase(model, [bare(concept) for concept in concepts], context)
        self._hold_to_its_word(model, edited)
        return edited

    def _hold_to_its_word(self, model: TextToImage, edited: TextToImage) -> None:
        """Compares the edit with what is declared; what an earlier edit filled is not its doing.

        Raises:
            ValueError: a slot, a parameter, other networks, or values that are not finite.
        """
        if edited.backbone is not model.backbone:
            raise ValueError(
                f"{self.name} returned a model with other networks; expected an edit of the model "
                "that it was given: model.with_weights(...), with_guidance(...), with_filters(...), "
                "with_hook(...)"
            )
        names = {*model.weights, *edited.weights}
        changed = [n for n in names if edited.weights.get(n) is not model.weights.get(n)]
        filled: dict[Slot, bool] = {
            "weights": bool(changed),
            "guidance": edited.guidance != model.guidance,
            "filters": edited.filters != model.filters,
            "hooks": edited.hooks != model.hooks,
        }
        slots = {slot for slot, is_filled in filled.items() if is_filled}
        foreign = sorted(set(changed) - set(self.parameters(model))) if changed else []
        if foreign or slots - self.slots:
            raise ValueError(
                f"{self.name} declares slots {sorted(self.slots)} but filled {sorted(slots)}, "
                f"and changed parameters it does not declare: {foreign[:3]}; "
                "correct `slots` and `roles` or `parameters`"
            )
        self._check_hooks([one for one in edited.hooks if one not in model.hooks])
        for name in changed:
            # with_weights has looked at them; dataclasses.replace has not.
            if name in edited.weights and not bool(edited.weights[name].isfinite().all()):
                raise ValueError(
                    f"{self.name}: {name}: the edited values are not finite; the edit diverged "
                    "(lower its strength)"
                )

    def _check_hooks(self, hooks: Sequence[Fitted]) -> None:
        """Compares hooks with what is declared of them.

        Raises:
            ValueError: one has a way around it that the method does not tell of, or values that are
                not finite.
        """
        for one in hooks:
            if untold := sorted(set(one.hook.bypassed_by) - set(self.ways_around())):
                raise ValueError(
                    f"{self.name}: expected bypassed_by to name all that makes its hooks void, but "
                    f"{one.hook.name} is bypassed by {', '.join(untold)} too"
                )
            for name, value in one.tensors.items():
                if not bool(value.isfinite().all()):
                    raise ValueError(
                        f"{self.name}: hook {one.hook.name}: {name}: its values are not finite; the "
                        "edit diverged (lower its strength)"
                    )

    def ways_around(self) -> tuple[str, ...]:
        """All that makes its edit void by construction: :attr:`bypassed_by`, unless an edit was given to it."""
        return self.bypassed_by

    def base_files(self, folder: Path | None) -> tuple[Path, ...]:
        """Files of the base's folder, beside its networks, that decide the edit; for its digest.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.
        """
        return ()

    def remarks(self, folder: Path | None) -> tuple[str, ...]:
        """The lines of a plan on what the user gave it, which a reader of the results must know.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.
        """
        return ()

    def roles(self) -> frozenset[Role]:
        """The roles of the parameters that it changes, or must tell apart; a base without one is refused."""
        return frozenset()

    def parameters(self, model: TextToImage) -> list[str]:
        """The parameters ``component.name`` of a model that it may change, in the model's order: those of its roles."""
        return model.having(*self.roles())

    def check_base(self, folder: Path | None) -> None:
        """Refuses a base of a family whose parameters lack a role that it needs; who overrides this calls it.

        Raises:
            UsageError: in one line.
        """
        if self.roles() and folder is not None and (family := family_in(folder)) is not None:
            self._check_roles(family)

    def _check_roles(self, family: type[Family]) -> None:
        if lacking := sorted(self.roles() - family.roles):
            raise UsageError(
                f"{self.name}: expected a base with {', '.join(lacking)}, got one of "
                f"{family.about}, which has none; leave the method out, or take another base"
            )
