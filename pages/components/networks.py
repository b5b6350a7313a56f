"""The networks a page can align: rows of the zoo and dropped checkpoints, and what was found out about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pages.components.current import Current
from pages.components.inspection import Inspected
from pages.components.library import digest_of
from pages.components.memory import Memory
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.symmetry import Barrier, Movement, Symmetry
    from sane_engine.zoo.task import Task

Option = int | str
"""A row of the zoo, or the key of a dropped checkpoint."""

_SYMMETRIES: Memory[Symmetry] = Memory(32)
_MOVEMENTS: Memory[Movement] = Memory(64)
_BARRIERS: Memory[Barrier] = Memory(64)
_TASKS: Memory[Task] = Memory(2)  # images of a data set may take seconds to read


class Networks:
    """What the section Symmetry asks of networks, wherever they come from.

    Args:
        now: The zoo, or None where there is none.
        dropped: Checkpoints of the user.
    """

    def __init__(self, now: Current | None, dropped: Sequence[Inspected] = ()) -> None:
        self._now = now
        self._dropped = {model.key: model for model in dropped}

    def name(self, option: Option) -> str:
        """What to call it."""
        if isinstance(option, str):
            return self._dropped[option].name
        return self._zoo().name_of(option)

    def tensors(self, option: Option) -> Mapping[str, Tensor]:
        """Its weights."""
        if isinstance(option, str):
            return self._dropped[option].tensors
        return self._zoo().zoo.tensors(option)

    def like(self, option: Option) -> list[Option]:
        """The others with the same tensor names and shapes, dropped ones first."""
        shapes = self._shapes(option)
        dropped = [key for key in self._dropped if key != option and self._shapes(key) == shapes]
        rows = self._rows_like(option)
        return [*dropped, *(row for row in rows if row != option)]

    def origin(self, option: Option) -> str:
        """Where its symmetry is known from, for a caption."""
        if self._rows_like(option):
            return f"Symmetry of the networks of {self._zoo().name}" + (
                ", whose layout it has" if isinstance(option, str) else ""
            )
        return "Symmetry recognised from the tensors' names and shapes, without signs"

    def symmetry(self, option: Option) -> Symmetry:
        """What is known of its symmetry; the zoo knows more than the tensors alone."""
        from sane_engine.symmetry import symmetry_of_tensors, symmetry_of_zoo

        rows = self._rows_like(option)
        if rows:
            zoo = self._zoo().zoo
            key = (digest_of(zoo), zoo.symmetry, rows[0])
            return _SYMMETRIES.get(key, lambda: symmetry_of_zoo(zoo, rows[0]))
        return _SYMMETRIES.get(option, lambda: symmetry_of_tensors(self.tensors(option)))

    def movement(self, option: Option, reference: Option) -> Movement:
        """What aligning it to the reference does; the aligned weights themselves are not kept.

        Raises:
            Refusal: One of both has weights that are no numbers.
        """
        from sane_engine.symmetry import movement

        symmetry = self.symmetry(option)

        def make() -> Movement:
            return replace(movement(self.tensors(option), self.tensors(reference), symmetry), aligned={})

        return _MOVEMENTS.get((self._key(option), self._key(reference), symmetry.to_json()), make)

    def barrier(self, option: Option, reference: Option, *, progress: Progress) -> Barrier:
        """The straight line between the two, on the zoo's test images.

        Raises:
            Refusal: It is not known how to run these networks, or on which images; the message says which.
        """
        from sane_engine.sampling.batch_norm import conditioning
        from sane_engine.symmetry import barrier
        from sane_engine.zoo.task import activation_of, task_of_zoo

        if not self._rows_like(option):
            raise Refusal(
                "no-architecture",
                "How to run these networks, and on which images, is not known.",
                "It is known for models of a zoo made by train-zoo, and for checkpoints of their layout.",
            )
        zoo, symmetry = self._zoo().zoo, self.symmetry(option)
        activation = activation_of(zoo, [one for one in (option, reference) if isinstance(one, int)])

        def make() -> Barrier:
            return barrier(
                self.tensors(option),
                self.tensors(reference),
                symmetry,
                _TASKS.get(digest_of(zoo), lambda: task_of_zoo(zoo)),
                activation=activation,
                condition=conditioning(zoo, activation=activation),
                progress=progress,
            )

        return _BARRIERS.get((self._key(option), self._key(reference), digest_of(zoo), symmetry.to_json()), make)

    def _zoo(self) -> Current:
        if self._now is None:
            raise RuntimeError("a row needs a zoo")
        return self._now

    def _key(self, option: Option) -> tuple[str, Option]:
        return ("", option) if isinstance(option, str) else (digest_of(self._zoo().zoo), option)

    def _shapes(self, option: Option) -> dict[str, tuple[int, ...]]:
        if isinstance(option, str):
            return {name: tuple(tensor.shape) for name, tensor in self._dropped[option].tensors.items()}
        return {p.name: p.shape for p in self._zoo().zoo.signature(option)}

    def _rows_like(self, option: Option) -> list[int]:
        """Rows of the zoo with the same tensor names and shapes, among them the option itself if it is one."""
        if self._now is None:
            return []
        shapes = self._shapes(option)
        return [
            int(row)
            for group in self._now.zoo.layout_groups()
            if self._shapes(int(group[0])) == shapes
            for row in group
        ]
