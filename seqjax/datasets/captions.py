"""Images with captions: COCO's JSON, or a folder with a table."""

import json
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from seqjax.checks import check_whole
from seqjax.datasets.files import Name
from seqjax.datasets.strings import read_string
from seqjax.datasets.tables import read_table
from seqjax.datasets.text import read_bytes
from seqjax.install import missing

FILES = ("file_name", "file", "filename", "path", "image")
"""Names of the column of images."""
TEXTS = ("caption", "text", "description", "label")
"""Names of the column of captions."""


class Captions(NamedTuple):
    """Images with captions, N each. An image with several captions is there several times.

    Attributes:
        paths: the files, for `read_image`.
        captions: the texts.
    """

    paths: list[Path]
    captions: list[str]


def read_coco(path: Name, images: Name | None = None) -> Captions:
    r"""Read the captions of a COCO file, such as ``captions_train2017.json``; the images are not read.

    The file has an object with the lists ``images`` (objects with ``id`` and ``file_name``) and ``annotations``
    (objects with ``image_id`` and ``caption``).

    Args:
        path: the JSON file.
        images: the folder of the images; by default that of the JSON file.

    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: when the file is not UTF-8 or no JSON, or lacks a list or a field. The error names the entry.

    Example:
        >>> import json, pathlib, tempfile
        >>> from seqjax.datasets import read_coco
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "1.jpg").write_bytes(b"image")
        >>> annotations = [{"image_id": 7, "caption": "A cat."}]
        >>> coco = {"images": [{"id": 7, "file_name": "1.jpg"}], "annotations": annotations}
        >>> _ = (folder / "captions.json").write_text(json.dumps(coco))
        >>> read_coco(folder / "captions.json").captions
        ['A cat.']
    """
    folder = Path(path).parent if images is None else Path(images)
    try:
        found = json.loads(read_string(path))
    except json.JSONDecodeError as error:
        _refuse("JSON", f"{error.msg} in line {error.lineno} of '{path}'", "The file may be truncated.")
    files = {}
    for number, entry in enumerate(_list(found, "images", path)):
        place = f"images[{number}] of '{path}'"
        files[_field(entry, "id", int | str, place)] = folder / _field(entry, "file_name", str, place)
    paths, captions = [], []
    for number, entry in enumerate(_list(found, "annotations", path)):
        place = f"annotations[{number}] of '{path}'"
        image, caption = (
            _field(entry, "image_id", int | str, place),
            _field(entry, "caption", str, place).strip(),
        )
        if image not in files:
            _refuse("the id of an image", f"{image!r} in {place}", "Add the image, or remove the caption.")
        if not caption:
            _refuse("a caption", f"an empty one in {place}", "Remove the entry.")
        paths.append(_existing(files[image], place))
        captions.append(caption)
    return Captions(paths, captions)


def read_captions(folder: Name, table: str | None = None) -> Captions:
    r"""Read the captions of a folder of images from a table in it; the images are not read.

    The table (``.csv`` or ``.tsv``) has a column of images (file_name, file, filename, path or image) and one of
    captions (caption, text, description or label).

    Args:
        folder: the folder.
        table: the file name of the table; by default the only ``.csv`` or ``.tsv`` file.

    Raises:
        FileNotFoundError: when the folder or an image does not exist.
        ValueError: when there are several tables or none, or a column or a caption is missing. The error names the
            line.

    Example:
        >>> import pathlib, tempfile
        >>> from seqjax.datasets import read_captions
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "1.png").write_bytes(b"image"), (folder / "all.csv").write_text("file,caption\n1.png,a cat\n")
        >>> read_captions(folder).captions
        ['a cat']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"read_captions: expected a folder, got '{folder}', which is none. Pass the folder of the table."
        )
    tables = [folder / table] if table else sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")])
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        _refuse(
            f"one .csv or .tsv table in '{folder}'", names, "Pass its name with `table=`.", "read_captions"
        )
    rows = read_table(tables[0])
    files, texts = (next((name for name in known if name in rows.names), None) for known in (FILES, TEXTS))
    if files is None or texts is None:
        missing = f"images ({', '.join(FILES)})" if files is None else f"captions ({', '.join(TEXTS)})"
        found = f"{', '.join(rows.names)} in line 1 of '{tables[0]}'"
        _refuse(f"a column of {missing}", found, "Rename the column.", "read_captions")
    captions = [caption.strip() for caption in rows.column(texts)]
    paths = []
    for line, name, caption in zip(rows.lines, rows.column(files), captions, strict=True):
        place = f"line {line} of '{tables[0]}'"
        if not caption:
            _refuse("a caption", f"an empty field in {place}", "Remove the line.", "read_captions")
        paths.append(_existing(folder / name, place))
    return Captions(paths, captions)


def read_image(path: Name, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image as colors ``[H, W, 3]`` uint8, on white where it is transparent. It needs the package Pillow.

    Args:
        path: the file, in any format that Pillow reads.
        size: ``(H, W)``, the size of the result (bilinear); None keeps that of the image.

    Raises:
        FileNotFoundError: when the path does not exist.
        ImportError: without Pillow.
        ValueError: when the file is empty or damaged, or a size is not positive.
    """
    if size is not None:
        size = (check_whole("read_image(size)", size[0]), check_whole("read_image(size)", size[1]))
    read_bytes(path)  # raises the errors of absent and empty files
    image_module = pillow()
    try:
        with image_module.open(path) as opened:
            return colors(opened, size)
    except OSError as error:
        text = " ".join(str(error).split())
        _refuse("a complete image", f"'{path}' ({text})", "Write the file again.", "read_image")


def colors(image: Any, size: tuple[int, int] | None) -> np.ndarray:
    """Return the colors ``[H, W, 3]`` uint8 of a Pillow image on white."""
    layer = image.convert("RGBA")
    whole = pillow().new("RGBA", layer.size, "white")
    whole.alpha_composite(layer)
    whole = whole.convert("RGB")
    return np.array(whole if size is None else whole.resize(size[::-1], pillow().Resampling.BILINEAR))


def pillow() -> Any:
    """Return the module ``PIL.Image``; raise an ImportError without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise missing("read_image", "Pillow", "data") from None
    return Image


def _list(found: Any, name: str, path: Name) -> list:
    values = found.get(name) if isinstance(found, dict) else None
    if not isinstance(values, list) or not values:
        _refuse(
            f"an object with the list {name!r}",
            f"none in '{path}'",
            "Pass a file of captions, as COCO has them.",
        )
    return values


def _field(entry: Any, name: str, kind: Any, place: str) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        _refuse(f"the field {name!r}", f"{str(entry)[:60]} in {place}", "Add it.")
    return value


def _existing(path: Path, place: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"read_captions: expected the image '{path}' of {place}, got none. Put it there, or remove the caption."
        )
    return path


def _refuse(expected: str, got: str, remedy: str, who: str = "read_coco") -> NoReturn:
    raise ValueError(f"{who}: expected {expected}, got {got}. {remedy}")
