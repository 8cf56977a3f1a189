"""Work out the numbers of a page's tables: text for people, from values by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from seqjax.report.figures import Profile, power

_FIT = ("exponential_rate", "exponential_length", "exponential_aic", "power_exponent", "power_aic")
Key = tuple[str, str, int, str | None, str | None]


@dataclass(frozen=True)
class Spread:
    """A mean over seeds as text, and the range behind it (empty where there is nothing to tell)."""

    mean: str
    span: str = ""


class Scalars:
    """The quantities without a step axis: values by seed at the first and the last training step."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """Collect the values from a tidy frame."""
        steps: dict[Key, dict[int, list[float]]] = {}
        columns = ("quantity", "cell", "length", "loss", "leaf", "training_step", "value")
        rows = frame.filter(pl.col("t").is_null()).sort("seed").select(columns)
        for quantity, cell, length, loss, leaf, step, value in rows.iter_rows():
            by_step = steps.setdefault((quantity, cell, length, loss, leaf), {})
            by_step.setdefault(step, []).append(math.nan if value is None else value)
        self._ends: dict[Key, tuple[list[float], list[float]]] = {
            key: (by_step[min(by_step)], by_step[max(by_step)] if len(by_step) > 1 else [])
            for key, by_step in steps.items()
        }

    def ends(
        self, quantity: str, cell: str, length: int, loss: str | None = None, leaf: str | None = None
    ) -> tuple[list[float], list[float]]:
        """Values by seed at the first training step and at the last, none where there is only one."""
        return self._ends.get((quantity, cell, length, loss, leaf), ([], []))

    def leaves(self, quantity: str, cell: str, length: int) -> list[str]:
        """Names of the leaves that a quantity was measured for."""
        return sorted({key[4] or "" for key in self._ends if key[:3] == (quantity, cell, length)})


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, in powers of ten where it is far from one."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        text = "0"
    elif 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}×{power(int(exponent))}"
    return text.replace("-", "−")


def spread(values: Sequence[float], digits: int = 3, factor: float = 1.0) -> Spread:
    """Summarise the seeds' values by their mean and range; values that are not a number are left out."""
    known = [value * factor for value in values if not math.isnan(value)]
    if not known:
        return Spread("–")
    if all(float(value).is_integer() for value in known):  # counts, such as lags
        mean, low, high = (
            f"{each:.1f}".removesuffix(".0") for each in (statistics.fmean(known), min(known), max(known))
        )
    else:
        mean, low, high = (number(each, digits) for each in (statistics.fmean(known), min(known), max(known)))
    return Spread(mean, "" if low == high else f"{low} to {high}")


def fall(profile: Profile, place: int) -> float:
    """Decades from the last step's norm to the first's, at the first (0) or last (1) of several snapshots."""
    if place and len(profile.steps) < 2:
        return math.nan
    first, last = profile.mean()[-place, [0, -1]].tolist()
    return math.nan if math.isinf(last) else first - last


def decades(value: float) -> str:
    """Write an exponent of ten: empty where unknown, "zero" where the number itself is 0."""
    if not math.isfinite(value):
        return "zero" if value == -math.inf else ""
    return f"{value:.{int(abs(value) < 10)}f}".replace("-", "−")


def horizons(
    measured: Iterable[tuple[int, str]], scalars: Scalars, profiles: Mapping[int, Sequence[Profile]]
) -> list[dict[str, Any]]:
    """Rows on how far the gradient of the last loss reaches, at initialisation and after training."""
    rows = []
    for length, cell in measured:
        profile = next((each for each in profiles.get(length, ()) if each.cell == cell), None)
        for place, when in enumerate(("initialisation", "after training")):
            names = ("lag_50", "lag_90", "zero_share", *_FIT)
            found = {name: scalars.ends(name, cell, length, "last", "carry")[place] for name in names}
            rows.append(
                {
                    "length": length,
                    "cell": cell,
                    "when": when,
                    "fit": _fit(found),
                    "fall": decades(fall(profile, place)) if profile else "",
                    "lag_50": spread(found["lag_50"]),
                    "lag_90": spread(found["lag_90"]),
                    "zeros": spread(found["zero_share"], factor=100.0),
                }
            )
    return rows


def losses(
    measured: Iterable[tuple[int, str]], scalars: Scalars, baselines: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Rows of training and held-out losses, the latter also against each baseline."""
    rows = []
    for length, cell in measured:
        first, last = scalars.ends("train_loss", cell, length)
        held_out = scalars.ends("held_out_loss", cell, length)
        final = held_out[1] or held_out[0]
        rows.append(
            {
                "length": length,
                "cell": cell,
                "initial": spread(first, 4),
                "final": spread(last, 4),
                "held_out": spread(final, 4),
                "against": [spread([value - baseline for value in final]) for baseline in baselines.values()],
            }
        )
    return rows


def parameters(
    measured: Iterable[tuple[int, str]], scalars: Scalars, kinds: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of gradient norms by parameter: for each loss, at initialisation and after training."""
    name = "parameter_gradient_norm"
    return [
        {
            "length": length,
            "cell": cell,
            "parameter": leaf,
            "norms": [spread(end) for loss in kinds for end in scalars.ends(name, cell, length, loss, leaf)],
        }
        for length, cell in measured
        for leaf in scalars.leaves(name, cell, length)
    ]


def _fit(values: Mapping[str, list[float]]) -> dict[str, Any]:
    """Name the law with the smaller criterion, averaged over seeds, and its measure."""
    exponential, power_law = values["exponential_aic"], values["power_aic"]
    pairs = [pair for pair in zip(exponential, power_law, strict=False) if not any(map(math.isnan, pair))]
    if not pairs:
        return {"law": "–", "measure": "", "value": Spread(""), "unit": "", "seeds": ""}
    won = sum(left <= right for left, right in pairs)
    is_exponential = sum(left - right for left, right in pairs) <= 0
    agreeing = won if is_exponential else len(pairs) - won
    seeds = "" if agreeing == len(pairs) else f"{agreeing} of {len(pairs)} seeds"
    if not is_exponential:
        law, measure, value, unit = "power law", "exponent", spread(values["power_exponent"]), ""
    elif all(math.isfinite(length) and length > 0 for length in values["exponential_length"]):
        law, measure, value, unit = "exponential", "e-folding", spread(values["exponential_length"]), "steps"
    else:  # no e-folding length where the norm of some seed does not decay
        law, measure, value, unit = "exponential", "rate", spread(values["exponential_rate"]), "per step"
    return {"law": law, "measure": measure, "value": value, "unit": unit, "seeds": seeds}
