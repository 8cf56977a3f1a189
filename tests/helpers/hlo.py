"""Count the collectives in a compiled program, and find those inside a loop."""

import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Collectives(NamedTuple):
    """Counts by operation: in the whole program, and in what its loops run; and how many loops there are."""

    total: dict[str, int]
    in_loops: dict[str, int]
    num_loops: int


def collectives(text: str) -> Collectives:
    """Count collectives in ``compiled.as_text()``.

    A module is a list of computations, ``%name (...) -> ... {`` up to ``}``, which name each other: a loop by
    ``condition=%a, body=%b``, other operations by ``to_apply=``, ``calls=`` or ``branch_computations={...}``. What a
    loop runs is all that can be reached from its condition and body.
    """
    computations = split(text)
    names = {
        name: {n for n in re.findall(r"%([\w.\-]+)", body) if n in computations}
        for name, body in computations.items()
    }
    loops = re.findall(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)", text)
    inside: set[str] = set()
    pending = [name for pair in loops for name in pair]
    while pending:
        name = pending.pop()
        if name not in inside:
            inside.add(name)
            pending += names[name]
    return Collectives(
        count("\n".join(computations.values())), count("\n".join(computations[n] for n in inside)), len(loops)
    )


def split(text: str) -> dict[str, str]:
    """The computations of a module, by name."""
    found = re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert found, "this is not the text of a compiled program"
    return dict(found)


def count(text: str) -> dict[str, int]:
    """Collectives by name; of the two halves of an asynchronous one, the start."""
    return dict(Counter(re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", text)))
