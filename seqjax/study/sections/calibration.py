"""Check the probes against closed forms, before other measurements."""

from collections.abc import Iterable
from typing import Any

from seqjax import calibration
from seqjax.study.experiment import Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.presets import SIZES
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings

NAME = "calibration"


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part: the table."""
    return [Part(NAME)]


def work(settings: Settings, part: Part) -> float:
    """Compilation takes most of the time."""
    return SIZES[settings.preset].calibration_seconds


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield every closed form in float64; the smoke preset checks a few."""
    sizes, told = SIZES[experiment.settings.preset], 0.0

    def progress(done: int, count: int, what: str) -> None:
        nonlocal told
        now = sizes.calibration_seconds * done / max(count, 1)
        experiment.advance(now - told)
        told = now

    only = [each for each in sizes.calibration_ids if each in calibration.IDS] or None
    for place, check in enumerate(calibration.run("float64", only=only, progress=progress)):
        tags: dict[str, Any] = {"group": check.id, "leaf": check.quantity, "t": place}
        yield row("exact", check.exact, **tags)
        yield row("measured", check.measured, **tags)
        yield row("error", check.error, **tags)
        yield row("tolerance", check.tolerance, **tags)
        yield row("passed", check.passed, **tags)
    yield row("checks_in_all", len(calibration.CHECKS))


MEASUREMENT = Measurement(NAME, parts, work, measure)
