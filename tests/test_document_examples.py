"""Run the Python examples of the documents; `make examples` runs them all, `make test` those that take seconds."""

import numpy as np
import pytest
from helpers.command_line import run
from helpers.documents import python_blocks, run_block

PAGES = ("cells", "concepts", "data", "instruments", "layers", "methods", "models", "probes", "training")


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/start.md",
        *(pytest.param(f"docs/{page}.md", marks=pytest.mark.slow) for page in PAGES),
    ],
)
def test_the_examples_of_a_document_run(monkeypatch, tmp_path, document):
    """Each block runs with the names of the blocks before it on the page."""
    monkeypatch.chdir(tmp_path)
    if document == "docs/training.md":
        # Stands for the page's run.
        small = "--vocabulary characters --length 6 --batch-size 4 --hidden-size 3 --steps 1 --out language".split()
        assert run(monkeypatch, "train", "text", *small) == 0
    names = {}
    for example in python_blocks(document):
        names = run_block(example, document, **names)
    if document == "docs/training.md":
        assert names["fitted"].best_value < np.log(256) and (tmp_path / "run" / "curves.svg").exists()
        assert names["made"].lengths.tolist() == [100]
