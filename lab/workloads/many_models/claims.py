"""What YONO claims, and what it is held against."""

from __future__ import annotations

from lab.workloads.base import Claim

INT8, PLAIN, COPIED, LOADED, HEADS = "store=int8", "store=plain", "store=copied", "store=loaded", "store=heads"
KMEANS, KMEANS_SMALL, UNSEEN = "store=kmeans", "store=kmeans,bits=2", "learnt=2"
BASELINES = (INT8, PLAIN, COPIED, LOADED, HEADS, KMEANS, KMEANS_SMALL, UNSEEN)
_TABLES, _FIGURES = "S009, tables 2 to 5", "S009, figures 6 and 7"
_SCALE = "ours: three networks of 30 kB in int8; what is not coded weighs more in small ones"
_MODELLED = "bytes at the medium's rate, without a card's or a file system's own time, against the board's virtual time"
_CONTROL = "a control that the paper lacks"


def claims() -> tuple[Claim, ...]:
    """All of them, in the order in which a report tells them."""
    return (*_stored(), *_switched(), *_embarrassing())


def _stored() -> tuple[Claim, ...]:
    return (
        Claim("S009", "All networks take 11.6 times less than in float32.", _TABLES, "flash.weights", "",
              "reduction", 11.57, f"{_SCALE}, and codebooks are shared by few", at_least=7.5,
              against=("stored.float32", "run")),
        Claim("S009", "And 3.8 times less than in int8.", f"{_TABLES}: 11.57 and 3.04 times", "flash.weights", INT8,
              "reduction", 3.81, _SCALE, at_least=2.0),
        Claim("S009", "Accuracy falls by 0.4 to 0.6 points.", _TABLES, "accuracy", INT8, "difference", -0.005,
              "against the same networks in int8; 300 samples", at_least=-0.03),
        Claim("S009", "Training around the codes wins back what codes alone lose.",
              f"{_TABLES}: 4.2 to 9.4 points are lost without", "accuracy", PLAIN, "difference", 0.063,
              "which of the three loses most by codes alone is the luck of their weights", at_least=0.01),
        Claim("S009", "A network that the codebook was not learnt from is coded by it as well.",
              f"{_TABLES}: eight unseen networks", "accuracy.beats", UNSEEN, "difference", 0.0,
              "the third network: coded by a codebook that it is part of, less by one that it is not", at_most=0.05),
    )  # fmt: skip


def _switched() -> tuple[Claim, ...]:
    return (
        Claim("S009", "Switching takes 15 to 18 times less than loading from a card.", _FIGURES, "latency", "",
              "reduction", 14.9, f"an SD card at 25 MHz on one line: {_MODELLED}", region="switch",
              against=("load_time.sd", "run")),
        Claim("S009", "Less than flashing the network.", _CONTROL, "latency", "", "reduction", None,
              f"STM32F407, typical times to erase and program: {_MODELLED}", region="switch",
              against=("load_time.reflash", "run")),
        Claim("S009", "Less than sending the network through a UART.", _CONTROL, "latency", "", "reduction", None,
              f"115,200 bit/s: {_MODELLED}", region="switch", against=("load_time.uart", "run")),
        Claim("S009", "Switching takes a sixth of an execution.", f"{_FIGURES}: 24.9 of 159 ms, 2.8 of 16 ms",
              "latency", "", "factor", 0.157, "25 multiply-accumulates for each weight here", region="switch",
              at_most=0.5, against=("latency", "inference")),
        Claim("S009", "And 13 % of its energy.", f"{_FIGURES}: 5.1 of 38.2 mJ", "energy", "", "factor", 0.134,
              "modelled power on emulated boards", region="switch", at_most=0.5, against=("energy", "inference")),
        Claim("S009", "An execution takes as long as ever.", f"{_FIGURES}: 160 and 159 ms", "latency", INT8,
              "factor", 0.994, "weights in RAM and in flash take the same on an emulated board", region="inference",
              at_most=1.02),
    )  # fmt: skip


def _embarrassing() -> tuple[Claim, ...]:
    return (
        Claim("S009", "Switching, against loading the whole network from the device's own storage.", _CONTROL,
              "latency", LOADED, "factor", None, "all its constants: from mapped flash without wait states, the "
              "fastest medium; on Linux from a file; on lm3s6965evb from an SD card, as in the paper", region="switch"),
        Claim("S009", "Switching, against copying int8 weights to RAM.", _CONTROL, "latency", COPIED, "factor", None,
              "the same, of the weights alone that a code may stand for", region="switch"),
        Claim("S009", "Time per sample, against int8 weights that stay in flash.", _CONTROL, "latency_per_sample", INT8,
              "factor", None, "there switching is a pointer: a shared codebook buys flash with time and RAM"),
        Claim("S009", "RAM, against int8 weights that stay in flash.", "S009, section 5: the authors' own limitation",
              "peak_ram", INT8, "factor", None, "the region holds the largest network, decoded"),
        Claim("S009", "Flash, against k-means of single weights in 4 bits.", _CONTROL, "flash.weights", KMEANS,
              "reduction", None, "each network by a codebook of its own of 16 entries"),
        Claim("S009", "Accuracy, against that.", _CONTROL, "accuracy", KMEANS, "difference", None,
              "trained again around the codes in the same way"),
        Claim("S009", "Flash, against k-means in 2 bits, as many as the product code takes.", _CONTROL, "flash.weights",
              KMEANS_SMALL, "reduction", None, "codebooks of 4 entries"),
        Claim("S009", "Accuracy, against that.", _CONTROL, "accuracy", KMEANS_SMALL, "difference", None,
              "trained again around the codes in the same way"),
        Claim("S009", "Flash, against one network with three heads.", _CONTROL, "flash.weights", HEADS, "reduction",
              None, "its trunk is stored once, in int8; it must be trained on all tasks at once"),
        Claim("S009", "Accuracy, against that.", _CONTROL, "accuracy", HEADS, "difference", None,
              "tasks of this size fit into one trunk"),
    )  # fmt: skip
