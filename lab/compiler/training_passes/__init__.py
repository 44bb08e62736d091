"""Passes over a training program, one file each: Program to Program, the numbers unchanged unless the pass says so."""

from lab.compiler.training_passes.fuse_activation import fuse_activation
from lab.compiler.training_passes.immediate_update import immediate_update
from lab.compiler.training_passes.pack_masks import pack_masks
from lab.compiler.training_passes.prune import prune
from lab.compiler.training_passes.recompute import recompute

__all__ = ["fuse_activation", "immediate_update", "pack_masks", "prune", "recompute"]
