"""Draw a forecast: the last known values of each series, the median, and bands of 80% and 95%."""

from pathlib import Path

import numpy as np

from seqjax.cli.common import UsageError
from seqjax.cli.output import check_file
from seqjax.files import put
from seqjax.training.applications.forecast import Forecast

FORMATS = (".png", ".svg", ".pdf")
MOST_SERIES = 12
"""The largest number of series that are drawn, one per panel."""


def check_plot(out: Path) -> None:
    """Raise a `UsageError` for a picture whose format is not known, or that cannot be written."""
    if out.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--plot: expected a file that ends with {', '.join(FORMATS)}, got '{out}'. Choose such a name."
        )
    check_file(out, "--plot")


def draw_forecast(forecast: Forecast, out: Path) -> None:
    """Draw the first series of a forecast, at most 12, and write the picture."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    count = min(len(forecast.names), MOST_SERIES)
    columns = 1 if count == 1 else 2
    rows = -(-count // columns)
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "seqjax"}):
        figure = Figure(figsize=(7.2 if columns == 1 else 9.0, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[count:]:
            axes.set_axis_off()
        for place, axes in enumerate(grid.flat[:count]):
            known, quantiles = forecast.past[place], forecast.quantiles[place]
            shown = known[-4 * len(quantiles) :] if len(quantiles) > 5 else known[-20:]
            ahead = np.arange(len(quantiles) + 1)
            # The bands begin at the last known value.
            joined = np.concatenate([np.full((1, quantiles.shape[1]), known[-1]), quantiles])
            axes.plot(np.arange(1 - len(shown), 1), shown, color="#333333", linewidth=1.0, label="known")
            for low, high, alpha, label in ((0, 4, 0.2, "95%"), (1, 3, 0.35, "80%")):
                axes.fill_between(
                    ahead,
                    joined[:, low],
                    joined[:, high],
                    color="#0072b2",
                    alpha=alpha,
                    linewidth=0,
                    label=label,
                )
            axes.plot(ahead, joined[:, 2], color="#0072b2", linewidth=1.4, label="median")
            axes.set(title=forecast.names[place], xlabel="step from the last known value")
            axes.grid(linewidth=0.4, alpha=0.5)
        grid.flat[0].legend(frameon=False, fontsize=8)
        metadata = {"Date": None} if out.suffix.lower() == ".svg" else None
        put(out, lambda place: figure.savefig(place, format=out.suffix[1:].lower(), metadata=metadata))
