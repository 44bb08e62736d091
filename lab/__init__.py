"""The controller of the lab: devices, emulators, compiler, workloads and the runs that tie them together."""

__version__ = "0.1.0"
