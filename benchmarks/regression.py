"""The change detector on simulated nights with known truth. Claims: what it finds, how soon, how often it cries wolf.

The suite: 60 nights with noise of 1 % (normal; log-normal, skewed; normal with three nights 20 % off) or of two modes
3 % apart (1.6 % in all); a step of 0, 2 or 5 % at night 45. Found within three nights has two readings, and both are
claimed: reported once the new level has lasted three nights (``three nights in``), and placed within three nights of
the truth when all nights are known (``looking back``). Steps of 2 % are claimed over the whole suite, each kind of
noise a quarter of it; steps of 5 % and false alarms of the kind of noise that does worst. Each kind is printed. For
comparison, the rule that many labs start with: a night more than 5 % from the median of the ten before it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from common import Claim, verdict

from measurements.changepoints import splits

FloatArray = npt.NDArray[np.float64]
Detector = Callable[[FloatArray], list[int]]
NIGHTS, STEP, SERIES, NEAR = 60, 45, 2000, 3
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


def shares(detector: Detector, kind: str, step: float, looks: Sequence[int]) -> list[float]:
    """Share of series with a change, for each number of nights known: near the step, or any where there is none."""
    generator = np.random.default_rng([2026, KINDS.index(kind)])
    found = np.zeros(len(looks))
    for _ in range(SERIES):
        values = noise(kind, generator)
        values[STEP:] *= 1 + step
        places = [detector(values[:nights]) for nights in looks]
        found += [any(abs(place - STEP) <= NEAR for place in seen) if step else bool(seen) for seen in places]
    return [float(share) for share in found / SERIES]


def ever_alarmed(kind: str, series: int = 40) -> tuple[float, float]:
    """Looking every night without a step: share of looks with an alarm, and of series with one on any night."""
    generator = np.random.default_rng(7)
    looks = [
        [bool(ours(values[:nights])) for nights in range(8, NIGHTS + 1)]
        for values in (noise(kind, generator) for _ in range(series))
    ]
    return float(np.mean(looks)), float(np.mean([any(one) for one in looks]))


def claims() -> Iterator[Claim]:
    """Of each step at both looks: every kind of noise in words, and what is claimed of them."""
    looks: Mapping[str, int] = {"three nights in": STEP + NEAR, "looking back": NIGHTS}
    for step, what, bound in (
        (0.05, "steps of 5 % found, worst kind of noise", 0.98),
        (0.02, "steps of 2 % found, whole suite", 0.60),
        (0.0, "false alarms without a step, worst kind of noise", 0.02),
    ):
        by_kind = {kind: shares(ours, kind, step, list(looks.values())) for kind in KINDS}
        for place, look in enumerate(looks):
            found = {kind: by_look[place] for kind, by_look in by_kind.items()}
            seen = ", ".join(f"{kind} {share:.1%}" for kind, share in found.items())
            each = list(found.values())
            claimed = {0.05: min(each), 0.02: float(np.mean(each)), 0.0: max(each)}[step]
            yield Claim(f"{what}, {look}", seen, claimed, bound, at_least=step > 0)


def main() -> int:
    begin = time.perf_counter()
    for kind in KINDS:
        small, large, false = (shares(single_night, kind, step, [NIGHTS])[0] for step in (0.02, 0.05, 0.0))
        print(f"single night over 5 %, {kind}: {small:.0%} of 2% steps, {large:.0%} of 5% steps, alarms in {false:.0%}")
    for kind in ("normal", "outliers"):
        each_look, series = ever_alarmed(kind)
        print(f"looking every night, {kind}, no step: alarm in {each_look:.1%} of looks, once or more in {series:.0%}")
    made = list(claims())
    print(f"{time.perf_counter() - begin:.0f} s, {SERIES} series of each kind")
    return verdict(made)


if __name__ == "__main__":
    sys.exit(main())
