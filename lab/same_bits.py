"""The same arithmetic on every x86-64 processor with AVX2, so that what is trained here is trained so everywhere.

PyTorch, oneDNN, MKL and OpenBLAS choose their code by the processor, and each rounds in its own way; after a training
the weights are others. Here all are told to take what Intel's and AMD's processors do alike. They read it when they
compute for the first time, so that this package has to be imported before. What is set already is kept; processes that
the lab starts for devices do not get it (:mod:`lab.child_environment`), and other architectures are as they are.

Sources: PyTorch's ``ATEN_CPU_CAPABILITY`` and oneDNN's ``ONEDNN_MAX_CPU_ISA`` in their documentation; MKL's developer
guide, "Obtaining Numerically Reproducible Results": of its branches COMPATIBLE alone is the same on processors that are
not Intel's. What none of them covers is MKL's square root (:mod:`lab.compiler.square_root`).
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

SETTINGS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
}

_given: set[str] = set()


def settle() -> None:
    """Tell the libraries, where the processor can do it; once more does nothing."""
    if not _has_avx2():
        return
    for name, value in SETTINGS.items():
        if os.environ.setdefault(name, value) == value:
            _given.add(name)


def given() -> frozenset[str]:
    """The variables that are set for this and for nothing else."""
    return frozenset(_given)


def _has_avx2() -> bool:
    try:
        return platform.machine() == "x86_64" and " avx2 " in Path("/proc/cpuinfo").read_text(encoding="latin-1")
    except OSError:
        return False
