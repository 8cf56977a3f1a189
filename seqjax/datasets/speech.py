"""Folders of recordings with their transcripts, as LibriSpeech and Common Voice have them."""

from pathlib import Path
from typing import NamedTuple

from seqjax.datasets.files import Name
from seqjax.datasets.strings import lines_of, read_string
from seqjax.datasets.tables import read_table

FILES = ("path", "file", "filename", "file_name", "audio", "wav")
"""Names of the column of recordings."""
TEXTS = ("sentence", "text", "transcript", "transcription", "label")
"""Names of the column of transcripts."""
SPEAKERS = ("client_id", "speaker", "voice")
ENDS = (".wav", ".flac", ".mp3", ".ogg", ".opus")


class Speech(NamedTuple):
    """Recordings with their transcripts, N each.

    Attributes:
        paths: the files, for `read_audio`.
        transcripts: what is said.
        speakers: who says it; "" where the folder does not tell.
    """

    paths: list[Path]
    transcripts: list[str]
    speakers: list[str]


def read_speech(folder: Name, table: str | None = None) -> Speech:
    r"""Find the recordings of a folder and their transcripts; the recordings themselves are not read.

    * **LibriSpeech**: files ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` with a line ``NAME TRANSCRIPT`` for each
      recording ``NAME.flac`` (or another format) beside them.
    * **Common Voice**: a table such as ``train.tsv`` with the columns ``path`` and ``sentence``; the recordings are in
      ``clips``.
    * **Any other table** (``.tsv`` or ``.csv``) with a column of files (path, file, filename, file_name, audio or wav)
      and one of transcripts (sentence, text, transcript, transcription or label), and maybe one of speakers.

    Args:
        folder: the folder.
        table: the file name of the table. By default the folder is read as LibriSpeech where it has ``.trans.txt``
            files, else the table is its only ``.tsv`` or ``.csv`` file.

    Raises:
        FileNotFoundError: when the folder or a recording does not exist.
        ValueError: when there are no transcripts or several tables, or a line or column is missing. The error names the
            line.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_speech
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.wav").write_bytes(b"RIFF"), (folder / "all.csv").write_text("file,text\na.wav,hello\n")
        >>> read_speech(folder).transcripts
        ['hello']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"read_speech: expected a folder, got '{folder}', which is none. Pass the folder of the transcripts."
        )
    if table is not None:
        return _of_table(folder, folder / table)
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if transcripts:
        return _of_librispeech(transcripts)
    tables = sorted([*folder.glob("*.tsv"), *folder.glob("*.csv")])
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise ValueError(
            f"read_speech: expected .trans.txt files or one .tsv or .csv table in '{folder}', got {found}. "
            "Pass the name of a table with `table=`."
        )
    return _of_table(folder, tables[0])


def _of_librispeech(tables: list[Path]) -> Speech:
    speech = Speech([], [], [])
    for table in tables:
        for number, line in enumerate(lines_of(read_string(table)), 1):
            if not line.strip():
                continue
            name, _, transcript = line.partition(" ")
            if not transcript.strip():
                raise ValueError(
                    f"read_speech: expected 'NAME TRANSCRIPT', got {line[:40]!r} in line {number} of '{table}'. "
                    "Add the transcript, or remove the line."
                )
            speech.paths.append(_recording(table.parent / name, table, number))
            speech.transcripts.append(transcript.strip())
            speech.speakers.append(name.partition("-")[0])
    return speech


def _of_table(folder: Path, path: Path) -> Speech:
    table = read_table(path)
    files, texts, speakers = (
        next((name for name in known if name in table.names), None) for known in (FILES, TEXTS, SPEAKERS)
    )
    if files is None or texts is None:
        missing, known = ("recordings", FILES) if files is None else ("transcripts", TEXTS)
        raise ValueError(
            f"read_speech: expected a column of {missing} ({', '.join(known)}), got {', '.join(table.names)} in line 1 "
            f"of '{path}'. Rename the column."
        )
    transcripts = [text.strip() for text in table.column(texts)]
    paths = []
    for line, name, text in zip(table.lines, table.column(files), transcripts, strict=True):
        if not text:
            raise ValueError(
                f"read_speech: expected a transcript, got an empty field in line {line} of '{path}'. Remove the line."
            )
        clips = folder / "clips" / name
        paths.append(_recording(clips if clips.parent.is_dir() else folder / name, path, line))
    return Speech(paths, transcripts, table.column(speakers) if speakers else [""] * len(paths))


def _recording(path: Path, table: Path, line: int) -> Path:
    """Return the path of a recording, which may lack the end of its name."""
    for each in (path, *(path.with_name(path.name + end) for end in ENDS)):
        if each.is_file():
            return each
    raise FileNotFoundError(
        f"read_speech: expected the recording '{path}' of line {line} of '{table}', got none. "
        "Put it there, or remove the line."
    )
