"""The change detector on simulated nights with known truth. Claims: what it finds, how soon, how often it cries wolf.

The suite: 60 nights with noise of 1 % (normal; log-normal, skewed; normal with three nights 20 % off) or of two modes
3 % apart (1.6 % in all); a step of 0, 2 or 5 % at night 45. Found within three nights has two readings, and both are
claimed: reported once the new level has lasted three nights (``three nights in``), and placed within three nights of
the truth when all nights are known (``looking back``). The share of 2 % steps is claimed for noise of 1 %. For
comparison, the rule that many labs start with: a night more than 5 % from the median of the ten before it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
from common import Claim, verdict

from measurements.changepoints import splits

FloatArray = npt.NDArray[np.float64]
Detector = Callable[[FloatArray], list[int]]
NIGHTS, STEP, SERIES, NEAR = 60, 45, 400, 3
MINIMUM_EFFECT = 0.01
KINDS = ("normal", "lognormal", "outliers", "bimodal")


def noise(kind: str, generator: np.random.Generator) -> FloatArray:
    """One series around 1, shape (NIGHTS,)."""
    values = 1 + 0.01 * generator.standard_normal(NIGHTS)
    if kind == "lognormal":
        spread = np.exp(0.7 * generator.standard_normal(NIGHTS))
        return 1 + 0.01 * (spread - 1) / float(np.sqrt((np.exp(0.49) - 1) * np.exp(0.49)))
    if kind == "outliers":
        values[generator.choice(NIGHTS, 3, replace=False)] *= 1.2
    if kind == "bimodal":
        values += 0.03 * (generator.random(NIGHTS) < 0.2)
    return values


def ours(values: FloatArray) -> list[int]:
    return [split.index for split in splits(values, MINIMUM_EFFECT)]


def single_night(values: FloatArray) -> list[int]:
    return [i for i in range(10, values.size) if abs(values[i] / np.median(values[i - 10 : i]) - 1) > 0.05]


def share(detector: Detector, kind: str, step: float, nights: int) -> float:
    """Share of series with a change: near the step, or any where there is no step."""
    generator = np.random.default_rng(2026)
    found = 0
    for _ in range(SERIES):
        values = noise(kind, generator)
        values[STEP:] *= 1 + step
        places = detector(values[:nights])
        found += any(abs(place - STEP) <= NEAR for place in places) if step else bool(places)
    return found / SERIES


def ever_alarmed(kind: str, series: int = 40) -> tuple[float, float]:
    """Looking every night without a step: share of looks with an alarm, and of series with one on any night."""
    generator = np.random.default_rng(7)
    looks = [
        [bool(ours(values[:nights])) for nights in range(8, NIGHTS + 1)]
        for values in (noise(kind, generator) for _ in range(series))
    ]
    return float(np.mean(looks)), float(np.mean([any(one) for one in looks]))


def claims() -> Iterator[Claim]:
    looks: Mapping[str, int] = {"three nights in": STEP + NEAR, "looking back": NIGHTS}
    for name, nights in looks.items():
        found = {(kind, step): share(ours, kind, step, nights) for kind in KINDS for step in (0.0, 0.02, 0.05)}
        for step, bound, least in ((0.05, 0.98, True), (0.02, 0.60, True), (0.0, 0.02, False)):
            what = {0.05: "steps of 5 % found", 0.02: "steps of 2 % found", 0.0: "false alarms without a step"}[step]
            each = [kind for kind in KINDS if step != 0.02 or kind != "bimodal"]
            seen = ", ".join(f"{kind} {found[kind, step]:.1%}" for kind in KINDS)
            pooled = float(np.mean([found[kind, step] for kind in each]))
            yield Claim(f"{what}, {name}", seen, pooled, bound, at_least=least)


def main() -> int:
    begin = time.perf_counter()
    for kind in KINDS:
        naive = [f"{share(single_night, kind, step, NIGHTS):.0%} of {step:.0%} steps" for step in (0.02, 0.05)]
        false = share(single_night, kind, 0.0, NIGHTS)
        print(f"single night over 5 %, {kind}: {', '.join(naive)}, false alarms in {false:.0%}")
    for kind in ("normal", "outliers"):
        looks, series = ever_alarmed(kind)
        print(f"looking every night, {kind}, no step: alarm in {looks:.1%} of looks, once or more in {series:.0%}")
    made = list(claims())
    print(f"{time.perf_counter() - begin:.0f} s")
    return verdict(made)


if __name__ == "__main__":
    sys.exit(main())
