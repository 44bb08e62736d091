"""Runs inside gdb: follows a plan of stops and writes what gdb says at each; see tests/helpers/gdb_stops.py."""

import json
import os

import gdb  # type: ignore[import-not-found]

PLAN = json.loads(os.environ["LAB_GDB_PLAN"])


def frames():
    """gdb's own backtrace: [pc, function, file, line, inlined] each.

    Without its marks of exceptions, and without calls that it infers: those left no trace, since they ended in a jump.
    """
    found, frame = [], gdb.newest_frame()
    while frame is not None and frame.is_valid() and len(found) < 64:
        if frame.type() not in (gdb.SIGTRAMP_FRAME, gdb.TAILCALL_FRAME):
            where = frame.find_sal()
            file = where.symtab.filename.rpartition("/")[2] if where.symtab else ""
            found.append([frame.pc(), frame.name() or "", file, where.line, frame.type() == gdb.INLINE_FRAME])
        frame = frame.older()
    return found


def registers():
    frame = gdb.newest_frame()
    names = [*(f"r{number}" for number in range(13)), "sp", "lr", "pc"]
    if "riscv" in frame.architecture().name():
        names = ["ra", "sp", *(f"a{number}" for number in range(8)), "fp", *(f"s{n}" for n in range(1, 12)), "pc"]
    return {name: int(frame.read_register(name)) & 0xFFFFFFFF for name in names}


def memory(ranges):
    inferior = gdb.selected_inferior()
    return [[address, bytes(inferior.read_memory(address, size)).hex()] for address, size in ranges]


def note(found, stop):
    found.append(
        {
            "name": stop["name"],
            "frames": frames(),
            "registers": registers(),
            "memory": memory(PLAN["ranges"]),
            "values": [int(gdb.parse_and_eval(text)) & 0xFFFFFFFF for text in stop["values"]],
        }
    )


def main():
    for setting in ("pagination off", "confirm off", "backtrace past-main on", "backtrace past-entry on"):
        gdb.execute(f"set {setting}")
    gdb.execute(f"target remote {PLAN['socket']}", to_string=True)
    found = []
    for stop in PLAN["stops"]:
        for command in stop["commands"]:
            gdb.execute(command, to_string=True)
        note(found, stop)
        for _ in range(stop["steps"]):
            gdb.execute("stepi", to_string=True)
            note(found, stop)
    with open(PLAN["output"], "w", encoding="utf-8") as file:
        json.dump(found, file)
    gdb.execute("kill", to_string=True)


main()
