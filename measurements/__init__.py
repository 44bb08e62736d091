"""Measurement: capture, statistics, the durable store and its InfluxDB mirror, reports.

Knows nothing of the lab but plain data and :mod:`lab.errors`.
"""

from measurements.frame import load

__all__ = ["load"]
