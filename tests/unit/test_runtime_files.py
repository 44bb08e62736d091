"""Which files of the runtime code needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.runtime_files import RUNTIME, all_sources, needed_files, needed_sources


def names(text: str) -> set[str]:
    """Needed files, by their path in the runtime."""
    return {str(path.relative_to(RUNTIME)) for path in needed_files([text])}


def test_code_without_includes_needs_nothing() -> None:
    assert names("#include <stdint.h>\nint x;\n") == set()


def test_headers_of_every_branch_and_the_files_of_their_names_are_followed() -> None:
    found = names('#include "lab_pointwise_conv2d.h"\n')
    assert {"lab_pointwise_conv2d.c", "lab_dense.c", "arm/block_dsp.h", "arm/block_mve.h", "arm/row_dsp.h"} <= found
    assert not [name for name in found if name.startswith("lab_f32_")]


@pytest.mark.parametrize("source", all_sources(), ids=lambda path: path.stem)
def test_what_is_named_is_enough_to_link(source: Path, tmp_path: Path) -> None:
    needed = needed_sources([f'#include "{source.stem}.h"'])
    command = ["gcc", "-std=c99", "-shared", "-fPIC", f"-I{RUNTIME}", "-Wl,--no-undefined", "-o", tmp_path / "one.so"]
    done = subprocess.run([*command, *needed, "-lm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
