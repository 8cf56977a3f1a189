"""The documents: links lead somewhere, and the lists in them are complete."""

import re
from pathlib import Path

import pytest

from seqjax.probes import calibration

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/report/*.md",
        "benchmarks/results/*.md",
        "seqjax/datasets/*.md",
    )
    for path in ROOT.glob(pattern)
)


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document):
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    ):
        if target.startswith("http"):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / document).parent / place if place else ROOT / document
        assert path.exists(), f"{document}: {target} does not exist"
        assert not anchor or anchor in anchors(path), f"{document}: {target} names no heading"


def test_the_index_lists_every_page():
    index = (ROOT / "docs/index.md").read_text()
    missing = [
        path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md" and path.name not in index
    ]
    assert not missing


def test_every_closed_form_is_explained():
    ids = set(re.findall(r"^\| (C\d+) \|", (ROOT / "docs/closed_forms.md").read_text(), re.MULTILINE))
    assert ids == set(calibration.IDS)
