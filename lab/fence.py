"""What keeps a device from obeying two: the token of a lease, compared there with the highest it was ever told."""

from __future__ import annotations

from typing import Protocol


class Fence(Protocol):
    """A lease, as those see it who talk to the device (docs/leases.md)."""

    @property
    def token(self) -> int:
        """Rises from lease to lease of a device; below 2⁶⁴."""

    def check(self) -> None:
        """Make sure that the lease still holds, where the device itself cannot.

        Raises:
            LeaseLost: somebody else holds the device by now.
        """
