"""What the paper says of UR2M, and what must hold of ours."""

from __future__ import annotations

from lab.workloads.base import Claim

_BOARD = "Kwon et al. 2024, section VIII.C, NUCLEO-F446ZE"
_ENSEMBLE, _SINGLE, _DEEP = "method=ensemble", "method=softmax", "threshold=0"
_RATIO = (
    "the paper's is that of always leaving at its shallow net, whose work is 58 % of the deep one's; ours leaves there "
    "with a sure event only, and our first third is 31 % of the network"
)
_SCALE = "ours: digits, 300 images, one seed; its data are ear audio, keywords and ECG"

CLAIMS = (
    Claim("S005", "An inference takes 8.6 times less than an ensemble of five networks.", f"{_BOARD}: 717.2 to 83.0 ms",
          "latency_per_sample", _ENSEMBLE, "reduction", 8.64, _RATIO, at_least=4.0),
    Claim("S005", "And 8.4 times less energy.", f"{_BOARD}: 116.0 to 13.9 mJ", "energy_per_sample", _ENSEMBLE,
          "reduction", 8.35, f"{_RATIO}; power is nearly constant there and here, so that this is the latency again",
          at_least=4.0),
    Claim("S005", "Leaving early saves 1.9 times what the deepest exit takes.",
          f"{_BOARD}: 8.64 against 4.56 times less than the ensemble", "instructions_per_sample", _DEEP, "reduction",
          1.89, "leaving at once would save 3.2 times here; shifted and unknown images go deeper", at_least=1.2),
    Claim("S005", "It needs two thirds of the ensemble's RAM.", f"{_BOARD}: 75 to 49 KB", "peak_ram", _ENSEMBLE,
          "reduction", 1.53, "the members of our ensemble take turns in one planned arena, as the exits do"),
    Claim("S005", "And half of its flash.", f"{_BOARD}: 280 to 142 KB", "flash", _ENSEMBLE, "reduction", 1.97,
          "the runner is a part of both images; of a Linux program it is nearly all", at_least=1.2, bound_on=("mcu",)),
    Claim("S005", "No more is wrong than with the deepest exit alone.", "section VIII, accuracy by threshold",
          "accuracy", _DEEP, "difference", None, _SCALE, at_least=-0.05),
    Claim("S005", "No less is right than with the ensemble.", "section VIII", "accuracy", _ENSEMBLE, "difference",
          None, f"{_SCALE}: an ensemble stays better on shifted images, which is what it costs five times for"),
    Claim("S005", "The likelihood of shifted data is higher than that of a single network.",
          "abstract: 22 % (log loss 0.65 to 0.53 against test-time augmentation)", "nll.shifted", _SINGLE, "reduction",
          1.23, f"{_SCALE}: evidence grows with the scale of the input, and so does it on shifted images"),
    Claim("S005", "Uncertainty tells the unknown apart, as softmax entropy does.", "section VIII, figure 9",
          "auroc.unknown", _SINGLE, "difference", None,
          "the paper shows one example. A control: the entropy of one softmax finds them better here, and so does the "
          "probability of UR2M's own chosen event"),
    Claim("S005", "The same of Monte-Carlo dropout at the last layer.", "a control that the paper lacks",
          "auroc.unknown", "method=dropout", "difference", None, "its cost is that of one network: see its latency"),
    Claim("S005", "Dropout at the last layer takes as long as the network.", "a control that the paper lacks",
          "latency_per_sample", "method=dropout", "reduction", None, "eight draws are one linear layer"),
    Claim("S005", "The first likely event is taken at a threshold of 1.", f"{_BOARD}: what the 8.6 times are of",
          "accuracy", "threshold=1", "difference", None, "what waiting for less uncertainty is worth"),
)  # fmt: skip
