"""The nightly: a matrix of devices and workloads, by itself, resumable, with one report and one exit status."""
