"""Draw the pictures: ``python -m pictures [NAME ...]``, with `docs/` on the path."""

import sys
from pathlib import Path

from pictures import PICTURES, drawn

FOLDER = Path(__file__).parent / "instruments"


def main(names: list[str]) -> None:
    """Draw the pictures of these names; without names all, and remove pictures that no longer exist."""
    known = {picture.name for picture in PICTURES}
    if unknown := set(names) - known:
        sys.exit(
            f"pictures: expected names among {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}."
        )
    for picture in PICTURES:
        if not names or picture.name in names:
            (FOLDER / f"{picture.name}.svg").write_text(drawn(picture, picture.measure()), encoding="utf-8")
    for path in FOLDER.glob("*.svg"):
        if path.stem not in known:
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
