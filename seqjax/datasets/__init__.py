"""Readers of files, and loaders of batches. All batches are time-major: ``xs [T, B]``, ``targets [T, B]``."""

from seqjax.datasets.audio import Audio, read_audio
from seqjax.datasets.buckets import bucketed, pad, teacher_forced
from seqjax.datasets.captions import Captions, read_captions, read_coco, read_image
from seqjax.datasets.features import log_mel, log_mel_features, per_utterance
from seqjax.datasets.files import read_arrays, read_json_lines, read_lines, read_text
from seqjax.datasets.labelled import LabelledText, read_labelled
from seqjax.datasets.loader import Loader, examples, packed, padded, windows
from seqjax.datasets.parallel import ParallelText, read_parallel
from seqjax.datasets.prefetch import prefetch
from seqjax.datasets.series import Series, read_series, read_series_rows
from seqjax.datasets.speech import Speech, read_speech
from seqjax.datasets.streams import streams
from seqjax.datasets.strings import read_string
from seqjax.datasets.subwords import Subwords
from seqjax.datasets.tables import Table, read_table
from seqjax.datasets.text import (
    held_out_windows,
    moby_dick,
    read_bytes,
    sample_windows,
    split,
    unigram_entropy,
)
from seqjax.datasets.ts_files import LabelledSeries, read_ts
from seqjax.datasets.vocabulary import (
    END,
    PAD,
    START,
    UNKNOWN,
    Bytes,
    Characters,
    Vocabulary,
    Words,
)
from seqjax.datasets.vocabulary_files import read_vocabulary, write_vocabulary

__all__ = [
    "END",
    "PAD",
    "START",
    "UNKNOWN",
    "Audio",
    "Bytes",
    "Captions",
    "Characters",
    "LabelledSeries",
    "LabelledText",
    "Loader",
    "ParallelText",
    "Series",
    "Speech",
    "Subwords",
    "Table",
    "Vocabulary",
    "Words",
    "bucketed",
    "examples",
    "held_out_windows",
    "log_mel",
    "log_mel_features",
    "moby_dick",
    "packed",
    "pad",
    "padded",
    "per_utterance",
    "prefetch",
    "read_arrays",
    "read_audio",
    "read_bytes",
    "read_captions",
    "read_coco",
    "read_image",
    "read_json_lines",
    "read_labelled",
    "read_lines",
    "read_parallel",
    "read_series",
    "read_series_rows",
    "read_speech",
    "read_string",
    "read_table",
    "read_text",
    "read_ts",
    "read_vocabulary",
    "sample_windows",
    "split",
    "streams",
    "teacher_forced",
    "unigram_entropy",
    "windows",
    "write_vocabulary",
]
