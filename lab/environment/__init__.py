"""The measurement environment of devices with an operating system: set, restored and recorded."""

from lab.environment.changes import Hands, hands_of, undo_left_over
from lab.environment.cores import pinned
from lab.environment.log import EnvironmentLog
from lab.environment.measuring import measuring
from lab.environment.memory import MemoryWatch
from lab.environment.unified_memory import UnifiedMemory

__all__ = [
    "EnvironmentLog", "Hands", "MemoryWatch", "UnifiedMemory", "hands_of", "measuring", "pinned", "undo_left_over",
]  # fmt: skip
