"""Write the folder of a study as a study does, with rows and a summary of one's own."""

from seqjax.study.record import Record
from seqjax.study.store import Store


def write_study(folder, rows, summary):
    """A complete study, unless the summary says otherwise; rows without a part or a section get one."""
    rows = rows.with_columns(rows["part"].fill_null("part"), rows["section"].fill_null("training"))
    with Store(folder) as store:
        store.open(
            Record(summary.get("settings", {}), {}, {}),
            resume=False,
            overwrite=(folder / "summary.json").exists(),
        )
        store.add_rows("all", rows)
        store.write_summary({"complete": True} | summary)
    return folder
