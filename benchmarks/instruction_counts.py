"""Exact instructions, loads and stores of every layer of the spoken-digits network, beside public kernels.

One profiled inference per board under QEMU with our counting plug-in, twice: the claim is that both agree exactly. The
public kernels' instructions per multiply-accumulate (MAC) are those of CMSIS-NN and TinyEngine on mps2-an386 under the
same QEMU, GCC 12.2 -Ofast, counted the same way (measured for this project; see docs/benchmarks.md). They are of other
shapes, and so stand beside ours as ranges, not as bounds.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from common import BOARDS, Claim, image, spoken_digits, target, verdict

from lab.compiler.model import LayerInfo
from lab.devices.base import RegionCount
from lab.events import Job
from lab.passes import first_samples

# Least and most instructions per MAC over the shapes measured.
_PUBLIC = {
    "pointwise_conv2d": "CMSIS-NN 1.83-3.99, TinyEngine 1.90-4.02",
    "depthwise_conv2d": "CMSIS-NN 8.33-9.29, TinyEngine 8.46-9.89",
    "conv2d": "CMSIS-NN 1.76-4.82, TinyEngine 2.06-2.82",
    "linear": "CMSIS-NN 1.95, TinyEngine 2.84",
}


def kernel(layer: LayerInfo) -> str:
    """The operator; 1×1 convolutions apart, which public libraries have a kernel of their own for."""
    pointwise_macs = math.prod(layer.output_shape) * layer.input_shape[-1]
    return "pointwise_conv2d" if layer.operator == "conv2d" and layer.macs == pointwise_macs else layer.operator


def table(name: str, layers: tuple[LayerInfo, ...], counts: list[RegionCount]) -> str:
    """Counts per layer and in all, as text."""
    lines = [f"{name}: {'layer':24} {'operator':18} {'MACs':>8} {'instr.':>9} {'loads':>8} {'stores':>8} "
             f"{'instr/MAC':>9} {'loads/MAC':>9}  public, instr/MAC"]  # fmt: skip
    by_index = {count.index: count for count in counts if count.region == "layer"}
    for index, layer in enumerate(layers):
        count = by_index[index]
        per_mac = [f"{each / layer.macs:9.2f}" if layer.macs else " " * 9 for each in (count.instructions, count.loads)]
        lines.append(
            f"{name}: {layer.name:24} {kernel(layer):18} {layer.macs:8} {count.instructions:9} {count.loads:8} "
            f"{count.stores:8} {per_mac[0]} {per_mac[1]}  {_PUBLIC.get(kernel(layer), '')}"
        )
    macs = sum(layer.macs for layer in layers)
    for count in counts:
        if count.region == "inference":
            lines.append(
                f"{name}: {'whole inference':24} {'':18} {macs:8} {count.instructions:9} {count.loads:8} "
                f"{count.stores:8} {count.instructions / macs:9.2f} {count.loads / macs:9.2f}"
            )
    return "\n".join(lines)


def compare(name: str, job: Job) -> Claim:
    model = spoken_digits().model
    artifact = image(name, model)
    first, second = (target(name).count(artifact, job) for _ in range(2))
    print(table(name, model.layers, first))
    differ = sum(one != other for one, other in zip(first, second, strict=True))
    seen = f"{len(first)} regions counted twice, {differ} differ"
    return Claim(f"counts repeat exactly, {name}", seen, float(differ), 0.0)


def main() -> int:
    prepared = spoken_digits()
    one = first_samples(prepared.job, prepared.model.input.size, 1)
    job = replace(one, profile=True, repeats=1, warmup=0, quiet_us=0)
    return verdict([compare(name, job) for name in BOARDS])


if __name__ == "__main__":
    sys.exit(main())
