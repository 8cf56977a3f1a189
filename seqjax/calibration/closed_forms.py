"""The closed forms behind the checks, and the document that lists them."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from seqjax.calibration.base import Check


class ClosedForm(NamedTuple):
    """One entry of the list of closed forms.

    Attributes:
        id: C1, C2, ...; the ids C15, C16, C18 to C20, C22 and C27 are not in use.
        title: the model or quantity.
        formula: the exact value, as Markdown with LaTeX.
        probes: the names of the functions that the checks compare with the formula.
        source: the publication of the formula or of its values; "elementary" for a derivation of a few lines.
    """

    id: str
    title: str
    formula: str
    probes: tuple[str, ...]
    source: str = "elementary"


_FORMS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
CLOSED_FORMS = tuple(
    ClosedForm(id, **(form | {"probes": tuple(form["probes"])})) for id, form in _FORMS.items()
)
"""Every closed form, in the order of the ids."""

INTRODUCTION = """\
# Closed forms

`seqjax check` compares probes, estimators and algorithms with quantities that are known exactly. Each closed form has
an id; the checks of the command, of `seqjax.calibration` and of the report carry that id. The exact value is computed
by NumPy in float64 from the formula, the measured value by the function under test in the dtype of the calibration.

`make tables` generates this page from `seqjax/calibration/closed_forms.toml` and the checks beside it. The ids C15,
C16, C18 to C20, C22 and C27 are not in use.
"""


def page(checks: Iterable[Check]) -> str:
    """Return the document that lists all closed forms with their checks and tolerances, as Markdown."""
    checks = tuple(checks)
    return INTRODUCTION + "".join(
        _section(form, [c for c in checks if c.id == form.id]) for form in CLOSED_FORMS
    )


def _section(form: ClosedForm, checks: list[Check]) -> str:
    lines = [f"\n## {form.id}: {form.title}\n", form.formula, ""]
    lines += [f"Compared with {', '.join(f'`{probe}`' for probe in form.probes)}. Source: {form.source}.", ""]
    lines += ["| check | tolerance in float64 | in float32 | error |", "| --- | --- | --- | --- |"]
    for check in checks:
        kind = "relative" if check.relative else "absolute"
        quantity = check.quantity.replace("|", "\\|")
        lines.append(f"| {quantity} | {check.float64:.2g} | {check.float32:.2g} | {kind} |")
    return "\n".join(lines) + "\n"
