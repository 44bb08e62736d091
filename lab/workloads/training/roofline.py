"""Where a training step's time goes: rates achieved against the device's peaks, and the share that is data movement.
Das, Kwon, Chauhan and Mascolo, "Enabling On-Device Smartphone GPU based Training: Lessons Learned", 2022
(arXiv 2202.10100).

The study trains with MNN on a smartphone's GPU and CPU, times kernels and transfers, and finds that kernels can be
made fast while the transfers remain. Here the same is asked of any device: what each phase and each kernel of a step
computes and moves is known from the compiled plan, what it takes is measured, and so are the two peaks, by loops of the
runtime (:mod:`measurements.roofline`). The second backend of the same device is PyTorch on its processor, the third
PyTorch on its GPU (``pytorch,accelerator=cuda``), where copies between the two memories are timed as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared, Roofline
from lab.workloads.options import one_of, read_sized
from lab.workloads.training import own_images, torch_arms, transfer_tasks
from lab.workloads.training.agreement import Limits
from lab.workloads.training.arms import Arm, plain_arm, prepare_arm
from lab.workloads.training.transfer_tasks import Schedule

if TYPE_CHECKING:
    import torch
    from torch import nn

Update: TypeAlias = Literal["full", "last", "bias"]
Apply: TypeAlias = Literal["after", "during"]
GPU = "pytorch,accelerator=cuda"
LIMITS = Limits(loss=0.02, update=0.25)
"""A last bit can put a value on the other side of a ReLU's corner, and the ways part from there."""


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained, and on what; fewer steps than where accuracy is the question.

    Attributes:
        update: which parameters change.
        apply: when: all ``after`` backward, which makes a phase of its own of it as in frameworks, or each ``during``
            backward where its gradient arises.
    """

    samples: int = 48
    evaluated: int = 40
    target: float = 0.1
    update: Update = "full"
    apply: Apply = "after"


PAPER = Variant("paper", "mobilenet-v2", "", own_images.SIDE, samples=100, evaluated=100)
_OWN = (one_of("update", get_args(Update)), one_of("apply", get_args(Apply)))
SIZES = {"ci": (Variant(), (*transfer_tasks.ALLOWED, *_OWN)), "paper": (PAPER, (*own_images.ALLOWED, *_OWN))}


def parse(text: str) -> Variant:
    """A variant from ``update=last,apply=during``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("roofline", SIZES, text)


def arm_of(variant: Variant, network: nn.Module, example: torch.Tensor) -> Arm:
    """An arm that any network has, with its updates at the end or where gradients arise."""
    return replace(plain_arm(variant.update, network, example), immediate=variant.apply == "during")


def _claims() -> tuple[Claim, ...]:
    paper, step, update = "Das et al. 2022, abstract", "train.step", "train.update"
    return (
        Claim("S010", "Data movement takes almost 91 % of the time of training.", f"{paper}: MNN on a smartphone's GPU",
              "movement_time", "", "factor", 0.91, "theirs are transfers between CPU and GPU. Our devices have one "
              "memory: what stands here is the least, every tensor of every kernel once, at the rate of a copy",
              region=step, at_most=1.0, against=("latency", step)),
        Claim("S010", "The same by what the core executes: loads and stores among its instructions.", paper,
              "accesses", "", "factor", 0.91, "kernels load a value as often as they use it, not once; counted "
              "exactly, on emulated microcontrollers alone", region=step, at_least=0.25,
              against=("instructions", step)),
        Claim("S010", "The same with what theirs are: copies between host and accelerator.", f"{paper}: MNN on a GPU",
              "transfer_time", "", "factor", 0.91, "known under PyTorch alone, which is handed each sample and hands "
              "back the loss; on a processor both lie in one memory", region=step, at_most=1.0,
              against=("latency", step)),
        Claim("S010", "Of two backends of a device, one computes 2 times faster (40 to 70 against 15 to 30 GFLOP/s).",
              f"{paper}: OpenCL kernels against the CPU", "flop_rate", "pytorch", "factor", 2.0,
              "these two are this compiler's C and PyTorch, both on the CPU", region=step),
        Claim("S010", "The CPU computes at half the rate of the GPU.", f"{paper}: 15 to 30 against 40 to 70 GFLOP/s",
              "flop_rate", GPU, "factor", 0.5, "one sample a step: a GPU is handed little at a time", region=step),
        Claim("S010", "No step is above the roof of arithmetic.", "Williams et al. 2009", "flop_rate", "", "factor",
              None, "the kernels are plain C, which loads two values for each multiply-accumulate", region=step,
              at_most=1.0, against=("flop_rate", "peak.multiply_add")),
        Claim("S010", "Updating is where bytes bound most: forward computes more with each byte.", "no figure",
              "intensity", "", "factor", None, "plain SGD: 2 FLOP on 12 bytes; of the plan, the same on every device",
              region="train.forward", at_least=5.0, against=("intensity", update)),
        Claim("S010", "So it spends more of its time on its bytes than forward.", "no figure", "share.movement", "",
              "factor", None, "of the time as measured, against a copy's rate", region=update, at_least=1.5,
              against=("share.movement", "train.forward")),
        Claim("S010", "A step moves fewer bytes where each gradient is applied at once.",
              "the paper's way out: move less", "traffic", "apply=during", "factor", None,
              "gradients of weights are neither written nor read again; feature maps are most of the bytes",
              region=step, at_least=1.02),
        Claim("S010", "And takes less time.", "no figure", "latency", "apply=during", "factor", None,
              "at this scale arithmetic takes most of it", region=step),
    )  # fmt: skip


class RooflineStudy:
    """The workload. Variants: ``update=full|last|bias``, ``apply=after|during``, ``image=16|32|48|64``, ``samples=``,
    ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas. With ``size=paper`` also ``data=`` and
    ``network=``.
    """

    id: str = "roofline"
    title: str = "Where a training step's time goes: rates against the device's peaks, and data movement"
    family: str = "training"
    systems: tuple[str, ...] = ("S010",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("pytorch", GPU, "apply=during")
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen, sources = parse(variant), (Path(__file__),)
        arm = partial(arm_of, chosen)
        prepared = prepare_arm(
            self.id, chosen.update, chosen, arm, cache, sources=sources, must_learn=False, limits=LIMITS
        )
        training = prepared.model.training
        return replace(
            prepared,
            roofline=None if training is None else Roofline(training.steps),
            program=lambda: torch_arms.torch_program(self.id, chosen, arm, cache, sources),
        )


WORKLOAD = RooflineStudy()
