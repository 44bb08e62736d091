"""What SparCL claims, and what of it must hold here."""

from __future__ import annotations

from lab.workloads.base import Claim

PAPER = "Wang et al. 2022"
_ORDERS = "mean over 8 orders of the classes of 350 questions, by the C on the host: one order says little"

CLAIMS: tuple[Claim, ...] = (
    Claim("S034", "Training takes at most 23 times less work.", f"{PAPER}, abstract", "macs.training", "update=dense",
          "reduction", 23.0, "analytic as in the paper; 75 % of the blocks are left out where its 23 is at 95 %, and "
          "the last layer is dense in both", at_least=4.0),
    Claim("S034", "Which pays off in what the core executes in a step.", "no figure: the paper's code masks, and "
          "computes all gradients", "instructions", "update=dense", "reduction", None, "a quarter of the "
          "weights, but an index is read for every four of them, a row has few, and the last layer is dense",
          region="train.step", at_least=1.8),
    Claim("S034", "And in the time of all steps, which data removal makes fewer.", "no figure of a microcontroller",
          "training_time", "update=dense", "reduction", None, "as above", at_least=2.3),
    Claim("S034", "And in their energy.", "no figure", "training_energy", "update=dense", "reduction", None,
          "as above; energy by the board's energy model", at_least=2.2),
    Claim("S034", "Arena and variables shrink with the weights that are left out.", f"{PAPER}, section 1: memory "
          "footprint", "memory.m4", "update=dense", "reduction", 4.0, "4 is 75 % sparsity; biases, the last layer, "
          "block numbers and the arena are there in both", at_least=2.5),
    Claim("S034", "As measured: arena, variables, stack and runner.", "no figure", "peak_ram", "update=dense",
          "reduction", None, "stack and runner are the same in both; on Linux the process is nearly all of it"),
    Claim("S034", "Removed samples cost nothing.", f"{PAPER}, section 3.3: 30 % of the data removed", "steps",
          "update=dense", "reduction", 1.29, "removed after the first two of four epochs, so that 19 % of the steps "
          "are spared; the paper's 30 % go by epoch 20 of 50", at_least=1.15),
    Claim("S034", "Accuracy is that of dense rehearsal, or better.", f"{PAPER}, abstract: up to +1.7 %",
          "accuracy.orders", "update=dense", "difference", 0.017, f"200 images and 64 pixels; {_ORDERS}. "
          "With stored logits (replay=der) the masked network needs a higher rate: at 0.05 the dense one is 7 points "
          "ahead, at 0.12 the masked one 4, each at its best rate the dense one 1.4 with as large an error",
          at_least=-0.05),
    Claim("S034", "Masks that move are better than one that stays.", f"{PAPER}, table of ablations", "accuracy.orders",
          "update=static", "difference", None, "our scale does not show it: 65 renewals of one block in 1300 steps, "
          f"and a quarter of a small network's weights is enough for ten digits; {_ORDERS}"),
    Claim("S034", "And moving them costs next to nothing.", "no figure", "instructions", "update=static", "factor",
          None, "one block of each layer every 20 steps", region="train.step", at_most=1.05),
    Claim("S034", "Cheap baseline: the nearest class mean of raw pixels.", "not in the paper", "accuracy.orders",
          "update=ncm", "difference", None, "it forgets nothing and descends nothing, and on digits it is ahead of "
          "every learner here by far: rehearsal with few samples is what is compared, not what should be used"),
    Claim("S034", "And what its step costs.", "not in the paper", "instructions", "update=ncm", "factor", None,
          "a step of it compares and averages, and touches 640 values", region="train.step"),
)  # fmt: skip
