"""``seqjax list`` shows the cells, methods and tasks."""

from rich.table import Table

from seqjax.cli.common import console
from seqjax.report import catalog


def list_() -> None:
    """Show all cells, methods and tasks."""
    for table in (catalog.cells(), catalog.methods(), catalog.tasks()):
        shown = Table(title=table.title, title_justify="left")
        for place, column in enumerate(table.columns):
            shown.add_column(column, no_wrap=place == 0, overflow="fold")  # names are not wrapped
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
