"""``python -m lab.emulators.tcg_plugin``: build the plug-in into the cache."""

from __future__ import annotations

import sys

from lab.emulators.tcg_plugin import build_plugin
from lab.errors import LabError
from lab.paths import cache_dir

try:
    build_plugin(cache_dir())
except LabError as error:
    sys.exit(str(error))
