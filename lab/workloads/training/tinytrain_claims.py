"""What TinyTrain claims, and what of it must hold here."""

from __future__ import annotations

from lab.workloads.base import Claim

PAPER = "Kwon et al. 2024"
_SMALL = (
    "13 convolutions on maps of 10×10 against MCUNet's 42 on up to 64×64, and the last ones hold most of the weights"
)
_TASK = (
    "one task of 5 classes and 50 questions, so a point is half an image; the paper has the mean of 200 tasks of 5 to "
    "50 classes on nine data sets. accuracy.tasks is the mean over several tasks, trained on the host"
)


def _accuracy(text: str, baseline: str, paper: float, why: str, at_least: float | None = None) -> Claim:
    source = f"{PAPER}, table 1, MCUNet"
    return Claim("S007", text, source, "accuracy.tasks", baseline, "difference", paper, f"{why}; {_TASK}",
                 at_least=at_least)  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim("S007", "Backward memory is a thousandth of full training's.",
          f"{PAPER}, abstract and table 2 (906 MB against 0.89 MB on MCUNet)", "memory.m3", "update=full", "reduction",
          1098.0, "as published: full training with batches of 100 that keep float inputs of norms and ReLUs, "
          f"TinyTrain with batches of one; here {_SMALL}", at_least=100.0, against=("memory.m3.batch100", "run")),
    Claim("S007", "The same at equal batches of one.", f"{PAPER}, table 2, its 906 MB divided by the batch of 100",
          "memory.m3", "update=full", "reduction", 10.2, _SMALL, at_least=2.5),
    Claim("S007", "Less of the device's RAM, as it is measured: arena, variables, stack and runner.", "no figure",
          "peak_ram", "update=full", "reduction", None,
          "the paper ran on no microcontroller; stack, serial buffers and the runner are the same in both; on Linux so "
          "is the rest of the process",
          at_least=2.0, bound_on=("mcu",)),
    Claim("S007", "A backward pass takes a seventh of the multiply-accumulates.", f"{PAPER}, abstract and table 2",
          "macs.backward", "update=full", "reduction", 7.68,
          f"our budget is 35 % of full training's and the paper's 15 %: {_SMALL}, so that 15 % allow the last alone",
          at_least=2.5),
    Claim("S007", "Which pays off in what the core executes in backward.", f"{PAPER}, figure 5: 90 against 9 minutes",
          "instructions", "update=full", "reduction", 10.0,
          "the paper's time has the reading of the model in it and full training in batches of 100 that swap",
          region="train.backward", at_least=1.3),
    Claim("S007", "And in a whole step, whose forward pass is the same in both.", "no figure", "instructions",
          "update=full", "reduction", None, "forward is a third of a full step", region="train.step", at_least=1.1),
    Claim("S007", "Training takes less energy.", f"{PAPER}, figure 5: 4.4 against 1.2 kJ", "energy", "update=full",
          "reduction", 3.5, "energy of a step by the board's energy model; forward is the same in both",
          region="train.step", at_least=1.1),
    _accuracy("It is more accurate than full training.", "update=full", 0.024,
              "our scale does not show it: 200 steps on 25 images do not overfit 25,000 parameters as many more do "
              "half a million, and what is trained more adapts further"),
    _accuracy("It is far more accurate than training the last layer.", "update=last", 0.147,
              "our last layer holds a quarter of all weights", at_least=0.0),
    _accuracy("It is more accurate than a static sparse update.", "update=sparse", 0.05,
              "our scale does not show it: among six layers under this budget there is little to choose, and the "
              "static update reaches them all by their biases"),
    _accuracy("It is more accurate than class means without training.", "update=none", 0.248,
              "digits are nearer to characters than the nine data sets are to MiniImageNet", at_least=0.0),
    Claim("S007", "On the device's own task, with its own parameters.", f"{PAPER}, table 1, MCUNet", "accuracy",
          "update=none", "difference", 0.248, _TASK),
)  # fmt: skip
