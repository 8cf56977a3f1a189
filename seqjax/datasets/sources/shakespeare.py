"""38 plays of Shakespeare, held out by play."""

import re

from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.parts import Parts

TEST = ("twelfth-night", "king-john", "the-tempest", "macbeth")
VALIDATION = ("much-ado-about-nothing", "henry-v", "othello")


def shakespeare() -> Parts:
    """Return the plays of Shakespeare: parts of ``{name: text}``.

    Plays are held out as a whole: a comedy, a history, a romance and a tragedy for the test, and three others for
    validation. The marks of headings, of speakers (``**NAME**``) and of stage directions are removed; the name of a
    speaker stands in a line of its own, with a colon.

    The parts have 4,133,221, 424,278 and 431,290 characters, 82 different ones.

    Raises:
        MissingDataError: when the data are not in the cache: run ``seqjax data fetch shakespeare``.
    """
    (folder,) = folders("shakespeare")
    paths = sorted(folder.rglob("*.md"), key=lambda path: path.as_posix())
    plays = {path.stem: plain(path.read_text(encoding="utf-8")) for path in paths}
    train = {name: text for name, text in plays.items() if name not in (*TEST, *VALIDATION)}
    return Parts(train, {name: plays[name] for name in VALIDATION}, {name: plays[name] for name in TEST})


def plain(text: str) -> str:
    r"""Return the text of a play without the marks of Markdown.

    Example:
        >>> plain("### SCENE I\n\n**ROMEO**  \nAy me!  \n_Exit_\n")
        'SCENE I\n\nROMEO:\nAy me!\nExit\n'
    """
    text = re.sub(r"^#+ *", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*(.+?)\*\*  ", r"\1:", text)
    return text.replace("**", "").replace("_", "").replace("  \n", "\n")
