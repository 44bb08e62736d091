"""The controller of the lab: devices, emulators, compiler, workloads and the runs that tie them together."""

from lab.same_bits import settle

__version__ = "0.1.0"

settle()
