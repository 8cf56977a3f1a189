"""Show the decay of the gradient with distance: curves against the lag, fits of two laws, and horizons."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from seqjax.probes import fit_decay
from seqjax.report.aggregate import band, shown, spread, thin
from seqjax.report.charts import Axis, Series, chart, decade_limits
from seqjax.report.content import (
    Block,
    Caption,
    Fold,
    Note,
    Panel,
    Table,
    Text,
    View,
    bold,
    columns,
    figure_of,
    listed,
    say,
)
from seqjax.report.drawing import float32_marks, label_of, quarters
from seqjax.report.horizons import horizon_of
from seqjax.report.order import certainty
from seqjax.report.results import Array, Profile, StudyResults, by_length
from seqjax.report.section import Section
from seqjax.report.text import decades, number, plural, ten
from seqjax.statistics import Interval
from seqjax.study.experiment import MOMENTS

_FIT = ("exponential_rate", "exponential_length", "exponential_aic", "power_exponent", "power_aic")


def view(results: StudyResults) -> View:
    """Show curves by length, both fits for every cell at the greatest length, and the table of horizons."""
    last, mean = results.profiles("last"), results.profiles("mean")
    if not last:
        return View("", [Note("No profiles of the last loss have been measured yet.", muted=True)])
    blocks: list[Block] = [_curves(results, "last", length, profiles) for length, profiles in last.items()]
    blocks.append(_fits(results, max(last), last[max(last)]))
    blocks += [Note(_ABOUT_HORIZONS), _horizons(results)]
    if mean:
        curves = [_curves(results, "mean", length, profiles) for length, profiles in mean.items()]
        blocks.append(Fold("The mean loss, against the step t", curves))
    intro = say(
        "The same norms for the last loss, against the lag on a logarithmic axis. Exponential decay is a straight "
        "line; a power law is a bent line. Lines are interquartile means of the logarithm over seeds; bands are their "
        "95\u00a0% bootstrap intervals. A line ends where the norm is exactly zero or the step is masked."
    )
    return View(intro, blocks)


_ABOUT_HORIZONS = say(
    "The table shows how far the gradient of the last loss reaches. The lags are those of the mean profile, with "
    "95\u00a0% intervals by bootstrap over seeds and sequences. The fits have intervals over seeds. Ratio is the norm "
    "at the first step divided by the norm at the last. Zeros is the share of examples and steps whose gradient is "
    "exactly zero."
)


# ---------------------------------------------------------------- curves


def _curves(results: StudyResults, loss: str, length: int, profiles: Sequence[Profile]) -> Block:
    snapshots = [0, -1] if len(profiles[0].steps) > 1 else [0]
    drawn = np.concatenate([profile.values[:, [0, -1]].ravel() for profile in profiles])
    limits = decade_limits(drawn)
    panels = [curve_panel(results, loss, length, profiles, snapshot, limits) for snapshot in snapshots]
    falls = {p.cell: [p.fall(place) for place in (0, 1)] for p in profiles}
    table = Table(
        f"First over last norm, T = {length}",
        columns(["first ÷ last"], MOMENTS),
        [("", [[cell, *map(decades, fall)] for cell, fall in falls.items()])],
        small=True,
    )
    shows = say("The norm against the {}, one line per cell.", "lag" if loss == "last" else "step")
    low, high = limits[0], round(limits[1] - 0.03 / 1.03 * (limits[1] - limits[0]))
    for end, beyond in ((low, drawn < low), (high, drawn > high)):
        if np.any(beyond & np.isfinite(drawn)):
            shows += say(" The axis ends at {}; some values lie beyond it.", ten(int(end)))
    spreads = {p.cell: p.falls(len(snapshots) - 1) for p in profiles}
    caption = Caption(shows, _from_profiles(profiles), _extremes(falls, snapshots, spreads))
    return figure_of(say("T = {}", length), panels, caption, [table], length)


def curve_panel(
    results: StudyResults,
    loss: str,
    length: int,
    profiles: Sequence[Profile],
    snapshot: int,
    limits: tuple[float, float],
    name: str = "",
) -> Panel:
    """Draw the norm of each cell at one snapshot, the first (0) or the last (-1), against the lag or the step."""
    name = name or f"curves-{loss}-T{length}-{'init' if snapshot == 0 else 'after'}"
    title = "at initialization" if snapshot == 0 else f"after {profiles[0].steps[-1]} training steps"
    order = slice(None, None, -1 if loss == "last" else 1)
    points = np.arange(length)
    series = []
    for profile in profiles:
        values = profile.values[:, snapshot, order]
        values = np.where(np.isfinite(values), values, np.nan)
        cell, middle = profile.cell, profile.iqm[snapshot, order]
        seeds = dict(zip(profile.seeds, values, strict=False))
        series.append(Series(cell, points, middle, results.places[cell], cell, *band(values), seeds))
    across = "lag: steps back from the last" if loss == "last" else "step t"
    cells = ", ".join(profile.cell for profile in profiles)
    return chart(
        series,
        name,
        title=f"T = {length}, {title}",
        x=Axis(across, limits=(0, length - 1 if length > 1 else 1), ticks=quarters(length)),
        y=Axis("gradient norm", "decades", limits),
        label=f"Gradient norm against {across.split(':')[0]}, T = {length}, {title}: {cells}.",
        length=length,
        draw=lambda axes: float32_marks(axes, limits[0]),
    )


def _from_profiles(profiles: Sequence[Profile]) -> Text:
    seeds = plural(max(len(profile.values) for profile in profiles), "seed")
    text = "From the profiles above, with {}. The band is the 95\u00a0% bootstrap interval of the interquartile mean."
    return say(text, seeds)


def _extremes(
    falls: Mapping[str, Sequence[float]], snapshots: Sequence[int], spreads: Mapping[str, Interval]
) -> Text:
    at_last = {cell: fall[len(snapshots) - 1] for cell, fall in falls.items()}
    ranked = sorted((fall, cell) for cell, fall in at_last.items() if not math.isnan(fall))
    when = "After training" if len(snapshots) > 1 else "At initialization"
    if len(ranked) < 2:
        return "With one line there is nothing to compare; the table gives its ratio."
    (least, worst), (most, best) = ranked[0], ranked[-1]
    text = say(
        "{} the ratio of the norm at the first step to that at the last is largest for <b>{}</b> ({}) and smallest for "
        "<b>{}</b> ({}). ",
        when,
        best,
        decades(most),
        worst,
        decades(least),
    )
    return text + certainty({cell: spreads[cell] for _, cell in ranked}, best)


# ---------------------------------------------------------------- both fits


def _fits(results: StudyResults, length: int, profiles: Sequence[Profile]) -> Block:
    found = {profile.cell: _both(profile) for profile in profiles}
    panels = [_fit_panel(results, profile, *found[profile.cell]) for profile in profiles]
    better: dict[str, list[str]] = {"exponential": [], "power": []}
    for cell, (decay, _, _) in found.items():
        if decay.better:
            better[decay.better].append(cell)
    said = []
    if better["exponential"]:
        lengths = {cell: number(found[cell][0].exponential_length) for cell in better["exponential"]}
        said.append(
            say(
                "The exponential fits better for {}",
                listed(say("{} (e-folding {} steps)", *each) for each in lengths.items()),
            )
        )
    if better["power"]:
        exponents = [say("{} (exponent {})", c, number(found[c][0].power_exponent)) for c in better["power"]]
        said.append(say("the power law fits better for {}", listed(exponents)))
    conclusion = Markup("; ").join(said) + "." if said else say("Too few finite norms to fit either law.")
    if better["power"]:
        conclusion += " An e-folding length does not describe a power law."
    return figure_of(
        say("Both laws, T = {}, at the last snapshot", length),
        panels,
        Caption(
            "Dots are the interquartile mean profile of a cell. The straight grey line is the exponential that fits it "
            "best, the bent grey line is the power law.",
            say(
                "Least squares on the logarithm of the norm over all lags with a finite norm. The better law has the "
                "smaller Akaike criterion. Profiles are interquartile means over {}.",
                plural(profiles[0].values.shape[0], "seed"),
            ),
            conclusion[:1].upper() + conclusion[1:],
        ),
        length=length,
    )


def _both(profile: Profile) -> tuple[Any, Array, Array]:
    """Return the fits of the mean profile at the last snapshot, and the two lines in decades."""
    y = profile.iqm[-1, ::-1] * math.log(10)
    decay, lags = fit_decay(y), np.arange(profile.length)
    finite = np.isfinite(y)
    lines = []
    for x, slope in ((lags, decay.exponential_rate), (np.log1p(lags), decay.power_exponent)):
        center = (y[finite].mean(), x[finite].mean()) if finite.any() else (math.nan, math.nan)
        lines.append((center[0] + slope * (x - center[1])) / math.log(10))
    return decay, lines[0], lines[1]


def _fit_panel(
    results: StudyResults, profile: Profile, decay: Any, exponential: Array, power: Array
) -> Panel:
    y, lags = profile.iqm[-1, ::-1], np.arange(profile.length)
    shown = thin(profile.length, 40)
    series = [
        Series("exponential", lags, exponential, None, profile.cell, pattern=1),
        Series("power law", lags, power, None, profile.cell, pattern=2),
        Series("measured", lags[shown], y[shown], results.places[profile.cell], profile.cell, marks="points"),
    ]
    limits = decade_limits(y)
    return chart(
        series,
        f"fits-T{profile.length}-{results.files[profile.cell]}",
        title=f"{label_of(profile.cell)}, T = {profile.length}",
        x=Axis("lag, steps", limits=(0, max(profile.length - 1, 1)), ticks=quarters(profile.length)),
        y=Axis("gradient norm", "decades", limits),
        label=f"Norm against lag with both fits, {profile.cell}, T = {profile.length}; better: {decay.better}.",
        length=profile.length,
        height=150,
        cell=profile.cell,
    )


# ---------------------------------------------------------------- horizons


def _horizons(results: StudyResults) -> Table:
    profiles = results.profiles("last")
    rows = []
    for length, cell in results.measured:
        profile = next((each for each in profiles.get(length, ()) if each.cell == cell), None)
        for place, when in enumerate(MOMENTS):
            names = ("lag_50", "lag_90", "zero_share", *_FIT)
            found = {name: results.scalars.ends(name, cell, length, "last", "carry")[place] for name in names}
            cells: list[Text] = [bold(cell), when, *fit_cells(found)]
            sequences = results.sequences(cell, length, bool(place))
            cells += [
                shown(horizon_of(sequences, share, found[f"lag_{share}"]), counts=True) for share in (50, 90)
            ]
            ratio = decades(profile.fall(place)) if profile else ""
            rows.append((length, [*cells, ratio, spread(found["zero_share"], factor=100.0)]))
    lags = [say("lag<sub>{}</sub>", share) for share in (50, 90)]
    heads = columns(["cell", "measured", "better fit", "its measure"], [*lags, "ratio", "zeros, %"])
    return Table("Table of horizons", heads, by_length(rows))


def fit_cells(values: Mapping[str, list[float]]) -> tuple[Text, Text]:
    """Name the law with the smaller criterion, averaged over seeds, and its measure."""
    exponential, power_law = values["exponential_aic"], values["power_aic"]
    pairs = [pair for pair in zip(exponential, power_law, strict=False) if not any(map(math.isnan, pair))]
    if not pairs:
        return "–", ""
    won = sum(left <= right for left, right in pairs)
    is_exponential = sum(left - right for left, right in pairs) <= 0
    agreeing = won if is_exponential else len(pairs) - won
    seeds = say("")
    if agreeing != len(pairs):
        seeds = say(' <span class="span">({} of {} seeds)</span>', agreeing, len(pairs))
    if not is_exponential:
        return say("power law") + seeds, say("exponent {}", spread(values["power_exponent"]))
    lengths = values["exponential_length"]
    if all(math.isfinite(length) and length > 0 for length in lengths):
        return say("exponential") + seeds, say("e-folding {} steps", spread(lengths, log=True))
    # No e-folding length where the norm of some seed does not decay.
    return say("exponential") + seeds, say("rate {} per step", spread(values["exponential_rate"]))


SECTION = Section("decay", "Decay with distance", view)
