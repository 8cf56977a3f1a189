"""Show the check of the probes against closed forms."""

import math
from typing import Any

from seqjax.report.content import Fold, Table, View, columns, listed, say
from seqjax.report.results import StudyResults
from seqjax.report.section import Section
from seqjax.report.text import number
from seqjax.study.sections.calibration import MEASUREMENT, NAME


def view(results: StudyResults) -> View:
    """Show a verdict in one sentence, and the table in a fold."""
    rows = results.rows(NAME)
    names = ("exact", "measured", "error", "tolerance", "passed")
    checks: dict[int, dict[str, Any]] = {}
    for place, identity, what, quantity, value in (
        rows.filter(rows["t"].is_not_null()).select("t", "group", "leaf", "quantity", "value").iter_rows()
    ):
        checks.setdefault(place, {"id": identity, "what": what})[quantity] = value
    failed = [check for _, check in sorted(checks.items()) if not check["passed"]]
    total = int(rows.filter(rows["quantity"] == "checks_in_all")["value"][0])
    verdict = say(
        "Every probe of this page was first checked against {} closed forms, whose values are known exactly, in "
        "float64. ",
        len(checks),
    )
    if total > len(checks):
        verdict += say(
            "(This preset runs {} of {}; <code>seqjax check</code> runs all.) ", len(checks), total
        )
    if failed:
        verdict += say(
            "<b>{} failed: {}. Do not rely on results that depend on these.</b>",
            len(failed),
            listed(f"{check['id']} {check['what']}" for check in failed),
        )
    else:
        worst = max(checks.values(), key=_used)
        verdict += say(
            "<b>All pass.</b> The closest to its tolerance is {} ({}), which uses {} of it.",
            worst["id"],
            worst["what"],
            f"{100 * _used(worst):.0f}\u00a0%",
        )
    lines = [
        [
            check["id"],
            check["what"],
            *(number(check[name], 6) for name in names[:2]),
            *(number(check[name], 2) for name in names[2:4]),
            "pass" if check["passed"] else say("<b>FAIL</b>"),
        ]
        for _, check in sorted(checks.items())
    ]
    table = Table("Calibration table", columns(["id", "quantity"], names[:4], ["verdict"]), [("", lines)])
    return View(verdict, [table if failed else Fold("The table of closed forms", [table])])


def _used(check: dict[str, Any]) -> float:
    if not check["tolerance"]:
        return 0.0 if not check["error"] else math.inf
    return float(check["error"] / check["tolerance"])


SECTION = Section(NAME, "Calibration", view, MEASUREMENT)
