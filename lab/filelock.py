"""Locks on open files that the kernel frees when their holder dies, however it dies.

Where Python has ``fcntl``, the lock is ``flock``; on Windows it is ``LockFileEx`` through the library filelock. A lock
belongs to the open descriptor: two descriptors of one process exclude each other, and closing one frees what it held.
Lock files are never written to, because on Windows nobody else may touch the byte that is locked.
"""

from __future__ import annotations

import importlib.util
import sys

# Asked as well as the platform's name, so that a test on another system can take the module away.
if sys.platform != "win32" and importlib.util.find_spec("fcntl") is not None:
    import fcntl

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Take the lock of an open file, if it can be had at once.

        Args:
            descriptor: open file; closing it frees the lock.
            shared: with others who share it; on Windows nobody shares.

        Returns:
            Whether it was taken.

        Raises:
            OSError: the file system knows no locks.
        """
        try:
            fcntl.flock(descriptor, _kind(shared) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait_for_lock(descriptor: int, *, shared: bool = False) -> None:
        """Take the lock of an open file; wait as long as others hold it.

        Args:
            descriptor, shared: as in :func:`try_lock`.

        Raises:
            OSError: the file system knows no locks.
        """
        fcntl.flock(descriptor, _kind(shared))

    def _kind(shared: bool) -> int:
        return fcntl.LOCK_SH if shared else fcntl.LOCK_EX
else:
    import filelock

    _POLL_S = 0.01

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Take the lock of an open file, if it can be had at once; says whether it was taken."""
        return filelock.lock_descriptor(descriptor, blocking=False)

    def wait_for_lock(descriptor: int, *, shared: bool = False) -> None:
        """Take the lock of an open file; wait as long as others hold it."""
        filelock.lock_descriptor(descriptor, poll_interval=_POLL_S)
