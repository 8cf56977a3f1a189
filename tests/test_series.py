"""Test readers of time series: wide tables, rows as in the M competitions, .ts files."""

import numpy as np
import pytest

from seqjax.datasets import read_series, read_series_rows, read_ts


@pytest.fixture
def write(tmp_path):
    def to(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to


def test_columns_are_series(write):
    path = write("x.csv", "t,a,b\n1,0.1,10\n2,1e3,20\n")
    series = read_series(path, time=0)
    assert series.names == ("a", "b") and series.times == ("1", "2")
    np.testing.assert_array_equal(series.values, [[0.1, 1000], [10, 20]])
    assert series.values[0].dtype == np.float64
    assert read_series(path, columns=("b",)).names == ("b",)
    assert read_series(path).names == ("t", "a", "b")


def test_gaps_are_interpolated_as_numpy_does_or_kept(write):
    path = write("x.csv", "a;b\n;1\n2;NA\nNaN;3\n;4\n8;null\n")
    known = {"a": ([1, 4], [2, 8]), "b": ([0, 2, 3], [1, 3, 4])}
    filled = read_series(path, delimiter=";", missing="interpolate")
    for name, values in zip(filled.names, filled.values, strict=True):
        np.testing.assert_allclose(values, np.interp(np.arange(5), *known[name]), rtol=1e-15)
    kept = read_series(path, delimiter=";", missing="keep")
    np.testing.assert_array_equal(kept.values[0], [np.nan, 2, np.nan, np.nan, 8])


def test_rows_are_series_of_different_lengths(write):
    series = read_series_rows(write("m4.csv", "V1,V2,V3,V4\nY1,1,2,3\nY2,4,,\n"))
    assert series.names == ("Y1", "Y2") and [v.tolist() for v in series.values] == [[1, 2, 3], [4]]
    m3 = "Series,N,NF,Type,Year,Month,1,2\nN1,2,1,MICRO,1990,1,5,6\n"
    assert read_series_rows(write("m3.csv", m3), leading=6).values[0].tolist() == [5, 6]


TS = "# comment\n@problemName X\n@timeStamps false\n@dimensions 2\n@classLabel true a b\n@data\n"


def test_ts_files_have_channels_and_classes(write):
    found = read_ts(write("x.ts", TS + "1,2:3,4:b\n5:6:a\n"))
    assert [x.tolist() for x in found.xs] == [[[1, 3], [2, 4]], [[5, 6]]]
    assert found.labels.tolist() == [1, 0] and found.names == ("a", "b") and found.xs[0].dtype == np.float32


def test_ts_files_have_numbers_or_no_labels(write):
    found = read_ts(write("x.ts", "@univariate true\n@targetLabel true\n@data\n1,2:0.5\n3,4:-1\n"))
    assert found.labels.tolist() == [0.5, -1] and found.names == () and found.labels.dtype == np.float32
    found = read_ts(write("y.ts", "@classLabel false\n@data\n1,2\n"))
    assert found.xs[0].tolist() == [[1], [2]] and found.labels.shape == (0,)


READERS = {"columns": read_series, "rows": read_series_rows, "ts": read_ts}


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        ("columns", "a,b\n1,2\n3,x\n", "expected a finite number, got 'x' in column 'b' of line 3"),
        ("columns", "a,b\n1,inf\n", "expected a finite number, got 'inf' in column 'b' of line 2"),
        (
            "columns",
            "a,b\n1,2\n,\n4,\n",
            "got 1 missing ones in column 'a', the first in line 3 .* Pass missing=",
        ),
        ("rows", "n,1,2\nY1,,2\n", "expected a number, got '' in column '1' of line 2 .* Fill the gap"),
        ("rows", "n,1,2\nY1,,\n", "expected values, got none in line 2"),
        ("rows", "n\nY1\n", r"read_series_rows\(leading\): expected 1 to 0 columns"),
        ("ts", "@classLabel true a b\n1,2:a\n", "expected a line of the header .*, got '1,2:a' in line 2"),
        ("ts", "@classLabel true a b\n", "expected the line @data, got none .* truncated"),
        (
            "ts",
            "@classLabel true a\n@data\n1:a\n",
            "expected the names of at least two classes, got @classLabel true a",
        ),
        ("ts", TS, "expected a series after @data, got none"),
        ("ts", TS + "1:2:c\n", "expected one of the classes a, b, got 'c' in line 7"),
        ("ts", TS + "1:2:3:a\n", "expected 2 channels separated by colons, got 3 in line 7"),
        ("ts", TS + "1,2:3:a\n", "expected channels of one length, got 2, 1 in line 7"),
        ("ts", TS + "1:?:a\n", "expected known values, got a missing one in line 7"),
        ("ts", TS + "1:x:a\n", "expected a finite number, got 'x' in line 7"),
        ("ts", "@timeStamps true\n@data\n(0,1):a\n", "expected values without time stamps"),
        ("ts", "@dimensions two\n@data\n1:2\n", "expected a whole number of channels, got @dimensions two"),
    ],
)
def test_errors_name_the_line_and_the_remedy(reader, text, message, write):
    with pytest.raises(ValueError, match=message) as caught:
        READERS[reader](write("x.csv", text))
    assert "\n" not in str(caught.value)


def test_unknown_treatments_of_gaps_are_refused(write):
    with pytest.raises(ValueError, match=r"read_series\(missing\): expected 'refuse', .* got 'drop'"):
        read_series(write("x.csv", "a\n1\n"), missing="drop")
