"""Passes towards a training program, one file each.

The numbers stay unchanged unless the pass says so; :mod:`~lab.compiler.training_passes.precision`,
:mod:`~lab.compiler.training_passes.filter_gradients`, :mod:`~lab.compiler.training_passes.perturb` and the immediate
updates of :mod:`~lab.compiler.training_passes.shared_weights` do.
"""

from lab.compiler.training_passes.block_sparse import block_sparse
from lab.compiler.training_passes.filter_gradients import filter_gradients
from lab.compiler.training_passes.fold_batch_norm import fold_batch_norm
from lab.compiler.training_passes.forward_only import as_forward, interleave
from lab.compiler.training_passes.fuse_activation import fuse_activation
from lab.compiler.training_passes.immediate_update import immediate_update
from lab.compiler.training_passes.in_turn import in_turn
from lab.compiler.training_passes.keep_output import keep_output
from lab.compiler.training_passes.pack_masks import pack_masks
from lab.compiler.training_passes.perturb import perturb
from lab.compiler.training_passes.precision import to_int8
from lab.compiler.training_passes.prune import prune
from lab.compiler.training_passes.recompute import recompute
from lab.compiler.training_passes.replay import in_groups, replay_logits
from lab.compiler.training_passes.running_statistics import running_statistics
from lab.compiler.training_passes.shared_weights import sum_shared, update_each_use
from lab.compiler.training_passes.sparse_update import sparse_update

__all__ = [
    "as_forward",
    "block_sparse",
    "filter_gradients",
    "fold_batch_norm",
    "fuse_activation",
    "immediate_update",
    "in_groups",
    "in_turn",
    "interleave",
    "keep_output",
    "pack_masks",
    "perturb",
    "prune",
    "recompute",
    "replay_logits",
    "running_statistics",
    "sparse_update",
    "sum_shared",
    "to_int8",
    "update_each_use",
]
