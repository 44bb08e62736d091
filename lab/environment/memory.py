"""How much memory a process used at most, and a limit on it.

The process is started in a control group of its own, whose kernel counter holds the peak of all it ever had: its own
pages, what the kernel keeps for it and what it started (Documentation/admin-guide/cgroup-v2.rst, ``memory.peak``, from
Linux 5.19 on; of version 1 ``memory.max_usage_in_bytes``). A limit is the group's too, without swap, so that the kernel
ends what breaks it and the group counts that (``oom_kill``). Where the lab has no rights to make groups, or the kernel
no memory controller, the process's own ``VmHWM`` is read: of private and shared pages alike, and of small processes
imprecise, since Linux counts it in batches of 64 pages per thread.

A phone gives nobody control groups. There a limit is a budget: ``VmHWM`` is compared with it after each run, and what
the process may allocate is bounded by ``RLIMIT_DATA`` (getrlimit(2); private writable memory since Linux 4.7), which
needs no rights. That bound counts memory that is reserved and never touched, so what the program has from its start,
such as room for samples, is added to it: it stops a runaway, the comparison finds what is above the budget.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lab.environment.changes import Hands
from lab.errors import ConfigError, OutOfMemory, TransportError
from lab.transports.remote import Finished
from measurements.environment import MemoryFigure

PROCESS = "peak_ram.process"
V2_ROOT, V1_ROOT = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"
GROUP = "hil-lab-"
"""How names of the lab's control groups begin."""

Version: TypeAlias = Literal["v2", "v1", "none"]
_SMALLER = "raise environment.memory_limit_bytes, or use a smaller model or batch"
_BUDGET = "VmHWM is compared with it after each run, and RLIMIT_DATA bounds what it allocates"
# What libraries, interpreters and PyTorch say when memory is refused to them.
_REFUSED = re.compile(r"can(?:no|')t allocate memory|out of memory|MemoryError|bad_alloc", re.IGNORECASE)

# The shell puts itself into the group and then becomes the program: not a page of the program lies outside. `$1` is
# the file that takes the number of the process, `$2` the group's folder, `$3` what gives the rights, `$4` the most data
# in KiB; empty where there is none.
_JOIN = """printf '%s\\n' $$ > "$1" || exit 125
if [ -n "$2" ]; then
if [ -n "$3" ]; then sudo -n sh -c 'echo "$1" > "$2/cgroup.procs"' sh $$ "$2"; else echo $$ > "$2/cgroup.procs"; fi
[ $? = 0 ] || exit 125
fi
if [ -n "$4" ]; then ulimit -d "$4" || exit 125; fi
shift 4; exec "$@"
"""
_ACCOUNT = 'read -r pid <"$1" && echo "$pid" && cat "/proc/$pid/status" "/proc/$pid/smaps_rollup" 2>/dev/null'
# Groups that a lab left behind which was killed; never one that another lab has just made and not yet used.
_CLEAN = f"find . -maxdepth 1 -name '{GROUP}*' -mmin +60 -exec rmdir {{}} ';' 2>/dev/null"
_FIND_V2 = """cd "$1" || exit 1
case " $(cat cgroup.controllers 2>/dev/null) " in *" memory "*) ;; *) exit 2;; esac
case " $(cat cgroup.subtree_control) " in *" memory "*) ;; *) echo +memory > cgroup.subtree_control || exit 3;; esac
{clean}
mkdir "$2"
"""
_FIND_V1 = """cd "$1" || exit 1
[ -e memory.limit_in_bytes ] || exit 2
{clean}
mkdir "$2"
"""
# What was killed is out of the group only when the kernel is done with it, a moment later.
_REMOVE = """i=0
while [ $i -lt 50 ]; do
rmdir "$1" 2>/dev/null && exit 0
[ -d "$1" ] || exit 0
sleep 0.1; i=$((i+1))
done
exit 1
"""
_RASPBERRY = (
    "on a Raspberry Pi the memory controller is off until cgroup_enable=memory stands in /boot/firmware/cmdline.txt"
)


@dataclass(frozen=True)
class _State:
    """What a group says: limit, peak and how many of its processes the kernel killed; None where it does not say."""

    limit_bytes: int | None
    peak_bytes: int | None
    kills: int | None


class MemoryWatch:
    """A control group for each start of a program, and what it says. One program runs at a time.

    Args:
        hands: the device, and by which rights the lab acts on it.
        folder: of the lab on the device; must be there.
        limit_bytes: what the program may use; None: what there is.
        without_rights: where there can be no control group, hold the program to a budget; else a limit is refused.
    """

    def __init__(
        self, hands: Hands, folder: str, limit_bytes: int | None = None, *, without_rights: bool = False
    ) -> None:
        self._hands = hands
        self._without_rights = without_rights
        self._remote = hands.remote
        self._limit_bytes = limit_bytes
        self._lab_folder = folder
        self._pid_file = ""
        self._version: Version = "none"
        self._folder = ""
        self.notes: tuple[str, ...] = ()
        """Why there is no control group; empty where there is one."""

    @property
    def version(self) -> Version:
        """Which control groups are used, ``none`` without."""
        return self._version

    @property
    def method(self) -> str:
        """How the peak is found, in words."""
        if self._version == "none":
            return f"VmHWM; {'; '.join(self.notes)}"
        return f"control group {self._version}, {'memory.peak' if self._version == 'v2' else 'max_usage_in_bytes'}"

    @property
    def folder(self) -> str:
        """The control group's folder on the device; empty without."""
        return self._folder

    def wrap(self, argv: Sequence[str], *, own_bytes: int = 0) -> list[str]:
        """The same program in a new control group; its process keeps the number it is started with.

        Args:
            argv: the program.
            own_bytes: memory it has from its start, of which it need not touch all.

        Raises:
            ConfigError: a limit was asked for and cannot be set.
            TransportError: the connection broke.
        """
        self.close()
        name = f"{GROUP}{uuid.uuid4().hex[:12]}"
        self._make(name)
        # Of its own too: another lab may use the same device in the same way, as two workers this computer.
        self._pid_file = f"{self._lab_folder}/{name}.pid"
        most_kib = ""
        if self._limit_bytes is not None and self._folder:
            self._limit(self._limit_bytes)
        elif self._limit_bytes is not None:
            most_kib = str(-(-(self._limit_bytes + own_bytes) // 1024))
        return ["sh", "-c", _JOIN, "sh", self._pid_file, self._folder, " ".join(self._hands.prefix), most_kib, *argv]

    def figures(self) -> list[MemoryFigure]:
        """What the program has used at most; empty where nothing says so, as after its end without a group.

        Raises:
            TransportError: the connection broke.
        """
        state = self._state()
        if state.peak_bytes is not None:
            file = "memory.peak" if self._version == "v2" else "memory.max_usage_in_bytes"
            note = f"{file} of a control group of its own: its pages, and what the kernel keeps for it"
            return [MemoryFigure(PROCESS, state.peak_bytes, self._with_limit(note))]
        pid, high_water, resident = self._process()
        if high_water is None:
            return []
        name = "VmHWM" if high_water >= resident else "Rss of smaps_rollup, which is above VmHWM"
        why = f" ({'; '.join(self.notes)})" if self.notes else ""
        note = f"{name}: its own and shared pages; VmHWM is counted in batches of 64 pages per thread{why}"
        return [MemoryFigure(PROCESS, max(high_water, resident), self._with_limit(note)), *self._android(pid)]

    def over_budget(self) -> OutOfMemory | None:
        """The error of a program that runs and has used more than its budget, with the numbers; None where it has not.

        A control group needs no such look: there the kernel ends what breaks the limit.

        Raises:
            TransportError: the connection broke.
        """
        if self._folder or self._limit_bytes is None:
            return None
        _, high_water, resident = self._process()
        used_bytes = max(high_water or 0, resident)
        if used_bytes <= self._limit_bytes:
            return None
        return OutOfMemory(
            f"{self._remote.name}: the runner used {used_bytes} bytes at most (VmHWM), the limit is "
            f"{self._limit_bytes} bytes",
            hint=_SMALLER,
        )

    def with_numbers(self, error: OutOfMemory) -> OutOfMemory:
        """The same error of a program that runs on and was refused memory, with the numbers of its budget.

        Raises:
            TransportError: the connection broke.
        """
        if self._folder or self._limit_bytes is None or str(self._limit_bytes) in error.message:
            return error
        _, high_water, resident = self._process()
        used_bytes = max(high_water or 0, resident)
        numbers = f"it used {used_bytes} bytes at most (VmHWM), the limit is {self._limit_bytes} bytes"
        return OutOfMemory(f"{error.message}; {numbers}", hint=_SMALLER, report=error.report)

    def _process(self) -> tuple[str, int | None, int]:
        """Number of the process, its ``VmHWM`` and what it has now, bytes; None and 0 where it has ended."""
        if not self._pid_file:
            return "", None, 0
        said = self._remote.run(["sh", "-c", _ACCOUNT, "sh", self._pid_file]).text
        pid, _, account = said.partition("\n")
        return pid, status_bytes(account), rollup_bytes(account).get("Rss", 0)

    def out_of_memory(self, complaint: str = "") -> OutOfMemory | None:
        """The error of a program that was killed for its memory, with the numbers; None where it was not.

        Args:
            complaint: the last that the program said, for one whose allocation was refused.

        Raises:
            TransportError: the connection broke.
        """
        if not self._folder and self._limit_bytes is not None and _REFUSED.search(complaint):
            return OutOfMemory(
                f"{self._remote.name}: the runner was refused memory and ended; the limit is {self._limit_bytes} bytes "
                f"(its peak is not known: it was over before it could be asked): {complaint.strip()[-300:]}",
                hint=_SMALLER,
            )
        state = self._state()
        words = self._kernel_words()
        if not state.kills and not words:
            return None
        limit = state.limit_bytes
        allowed = f"the limit is {limit} bytes" if limit is not None else "no limit was set: the device had no more"
        peak = "its peak is not known" if state.peak_bytes is None else f"it used {state.peak_bytes} bytes at most"
        kills = "" if state.kills is None else f"; oom_kill {state.kills}"
        return OutOfMemory(
            f"{self._remote.name}: the kernel killed the runner for its memory: {peak}, {allowed}{kills}"
            + (f"; kernel: {words}" if words else ""),
            hint=_SMALLER
            if limit is not None
            else "use a smaller model or batch, or stop what else runs on the device",
        )

    def close(self) -> None:
        """Remove the group; it has to be empty. Safe to call twice."""
        if self._folder:
            self._as_root(["sh", "-c", _REMOVE, "sh", self._folder])
        if self._pid_file:
            self._remote.run(["rm", "-f", self._pid_file])
        self._folder, self._pid_file, self._version = "", "", "none"

    def _with_limit(self, note: str) -> str:
        if self._limit_bytes is None:
            return note
        return f"{note}; limited to {self._limit_bytes} bytes" + ("" if self._folder else f": {_BUDGET}")

    def _as_root(self, argv: Sequence[str]) -> Finished:
        return self._remote.run([*self._hands.prefix, *argv])

    def _make(self, name: str) -> None:
        root = self._hands.root
        tries: tuple[tuple[Version, str, str], ...] = (
            ("v2", f"{root}{V2_ROOT}", _FIND_V2),
            ("v1", f"{root}{V1_ROOT}", _FIND_V1),
        )
        reasons = []
        for version, base, script in tries if self._hands.may else ():
            done = self._as_root(["sh", "-c", script.format(clean=_CLEAN), "sh", base, name])
            if done.status == 0:
                self._version, self._folder, self.notes = version, f"{base}/{name}", ()
                return
            words = done.stderr.decode(errors="replace").strip().splitlines()
            reasons.append(f"{version}: {words[-1] if words else 'no memory controller'}")
        rights = "no control group without the rights of root" if not self._hands.may else ""
        self.notes = (rights or "no control group: " + ", ".join(reasons),)
        if self._limit_bytes is not None and not self._without_rights:
            raise ConfigError(
                f"{self._remote.name}: memory_limit_bytes: {self._limit_bytes} was asked for, and {self.notes[0]}",
                hint=f"log in as root or allow sudo without a password; {_RASPBERRY}",
            )

    def _limit(self, limit_bytes: int) -> None:
        if self._version == "v2":
            settings = [("memory.swap.max", "0", False), ("memory.max", str(limit_bytes), True)]
        else:
            # Of version 1 the sum with swap cannot be below the limit, so it comes second; not every kernel counts it.
            settings = [
                ("memory.limit_in_bytes", str(limit_bytes), True),
                ("memory.memsw.limit_in_bytes", str(limit_bytes), False),
                ("memory.swappiness", "0", False),
            ]
        for file, value, needed in settings:
            argv = [*self._hands.prefix, "tee", f"{self._folder}/{file}"]
            done = self._remote.run(argv, stdin=f"{value}\n".encode())
            if done.status and needed:
                words = done.stderr.decode(errors="replace").strip()
                raise ConfigError(
                    f"{self._remote.name}: memory_limit_bytes: {limit_bytes} was refused by {file}: {words}",
                    hint="allowed: what the device has, in whole pages",
                )

    def _state(self) -> _State:
        if not self._folder:
            return _State(self._limit_bytes, None, None)
        if self._version == "v2":
            names = ("memory.max", "memory.peak", "memory.events")
        else:
            names = ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        limit, peak, events = (self._read(f"{self._folder}/{name}") for name in names)
        kills = re.search(r"^oom_kill (\d+)$", events, re.MULTILINE)
        limited = self._limit_bytes is not None and limit.isdigit()
        return _State(
            int(limit) if limited else None,
            int(peak) if peak.isdigit() else None,
            None if kills is None else int(kills[1]),
        )

    def _read(self, path: str) -> str:
        done = self._remote.run(["cat", path])
        return done.text if done.status == 0 else ""

    def _pid(self) -> str:
        return self._read(self._pid_file) if self._pid_file else ""

    def _android(self, pid: str) -> list[MemoryFigure]:
        """What Android's memory service says of the process; nothing where there is no such service."""
        done = self._remote.run(["dumpsys", "meminfo", pid])
        note = "dumpsys meminfo: what it holds after the run, not its peak; shared pages in equal parts"
        pss = meminfo_bytes(done.text).get("TOTAL PSS") if done.status == 0 else None
        return [] if pss is None else [MemoryFigure("ram.pss", pss, note)]

    def _kernel_words(self) -> str:
        """The kernel's line about the process that it killed; empty where there is none, or it may not be read."""
        pid = self._pid()
        if not pid:
            return ""
        try:
            log = self._as_root(["dmesg"])
        except TransportError as error:
            if error.transient:
                raise
            return ""
        return kill_line(log.text, int(pid)) if log.status == 0 else ""


def kill_line(log: str, pid: int) -> str:
    """The kernel's line that says that it killed a process for its memory; the last one, empty without."""
    pattern = re.compile(rf"[Oo]ut of memory: Kill(?:ed)? process {pid}\b")
    lines = [line for line in log.splitlines() if pattern.search(line)]
    return re.sub(r"^\[\s*[\d.]+\]\s*", "", lines[-1]) if lines else ""


def status_bytes(text: str) -> int | None:
    """``VmHWM`` of ``/proc/PID/status``, bytes; None where it is not there."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return None if match is None else int(match[1]) * 1024


def meminfo_bytes(text: str) -> dict[str, int]:
    """``TOTAL PSS``, ``TOTAL RSS`` and ``TOTAL SWAP`` of ``dumpsys meminfo``, bytes; up to Android 10 only the first.

    That one stands as ``TOTAL:`` in the summary of older versions.
    """
    totals = re.findall(r"(TOTAL (?:PSS|RSS|SWAP))(?: PSS)?(?: \(KB\))?:\s+(\d+)", text)
    found = {name: int(size) * 1024 for name, size in totals}
    if "TOTAL PSS" not in found and (match := re.search(r"^\s+TOTAL:\s+(\d+)", text, re.MULTILINE)):
        found["TOTAL PSS"] = int(match[1]) * 1024
    return found


def rollup_bytes(text: str) -> dict[str, int]:
    """``Rss``, ``Pss`` and ``Swap`` of ``/proc/PID/smaps_rollup``, bytes."""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(Rss|Pss|Swap):\s+(\d+) kB", text, re.MULTILINE)}
