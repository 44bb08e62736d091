"""What the fault tests share."""

from __future__ import annotations

from helpers.fault_bench import faulty_health_check, patient

__all__ = ["faulty_health_check", "patient"]
