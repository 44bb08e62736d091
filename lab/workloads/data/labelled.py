"""Labelled samples that come from several domains: people, speakers, places on the body; what all loaders yield.

A continual stream takes the classes a few at a time, :meth:`Labelled.tasks`; a shift of domain holds somebody out,
:meth:`Labelled.parted`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError

IntArray: TypeAlias = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Labelled(Generic[T]):
    """Samples, what each is, and where each comes from.

    Attributes:
        samples: (n, …).
        labels: int64 (n,), places in ``classes``.
        classes: names of the classes.
        domains: of each sample: a person, a speaker, a place on the body; n names.
        name: of the data, for records.
        digest: SHA-256, hex, of all that was read, or of what makes the samples.
    """

    samples: npt.NDArray[T]
    labels: IntArray
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    name: str
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def domain_names(self) -> tuple[str, ...]:
        """The domains, sorted, each once."""
        return tuple(sorted(set(self.domains)))

    def at(self, places: IntArray) -> Labelled[T]:
        """The samples at these indices, in their order; classes keep their numbers."""
        domains = tuple(self.domains[place] for place in places)
        return replace(self, samples=self.samples[places], labels=self.labels[places], domains=domains)

    def of_classes(self, labels: Collection[int]) -> Labelled[T]:
        """Samples of these classes, which keep their numbers.

        Raises:
            ConfigError: a class that there is not.
        """
        if wrong := sorted(set(labels) - set(range(len(self.classes)))):
            raise ConfigError(f"{self.name} has no class {wrong[0]}", hint=f"0 to {len(self.classes) - 1}")
        return self.at(np.flatnonzero(np.isin(self.labels, list(labels))))

    def tasks(self, classes_each: int) -> tuple[Labelled[T], ...]:
        """The same samples as tasks of some classes each, in the order of the classes; the last may have fewer.

        Raises:
            ConfigError: no class a task.
        """
        if classes_each < 1:
            raise ConfigError(f"a task of {classes_each} classes is none", hint=f"1 to {len(self.classes)}")
        numbers = range(len(self.classes))
        return tuple(self.of_classes(numbers[at : at + classes_each]) for at in range(0, len(numbers), classes_each))

    def parted(self, *held_out: str) -> tuple[Labelled[T], Labelled[T]]:
        """Samples of all other domains, and those of the domains that are held out.

        Raises:
            ConfigError: a domain that there is not, or nothing is left on one side.
        """
        known = self.domain_names()
        unknown = [one for one in held_out if one not in known]
        if unknown or not 0 < len(set(held_out)) < len(known):
            what = f"'{unknown[0]}'" if unknown else f"{len(set(held_out))} of {len(known)} domains"
            raise ConfigError(f"{self.name}: {what} cannot be held out", hint=f"some of: {', '.join(known)}; not all")
        out = np.array([domain in held_out for domain in self.domains])
        return self.at(np.flatnonzero(~out)), self.at(np.flatnonzero(out))
