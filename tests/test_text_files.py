"""Test readers of text: encodings, tables, labelled text and parallel text, against files written by Python."""

import csv
import io

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from seqjax.datasets import read_labelled, read_parallel, read_string, read_table

fields = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@pytest.fixture
def write(tmp_path):
    def to(name, data):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return to


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(encoding, write):
    text = "añ\r\nb €\U0001f600"
    assert read_string(write("text.txt", text.encode(encoding))) == "añ\nb €\U0001f600"


def test_other_encodings_are_named(write):
    path = write("text.txt", "día".encode("latin-1"))
    assert read_string(path, encoding="latin-1") == "día"


@given(st.lists(st.lists(fields, min_size=2, max_size=2), min_size=1, max_size=6))
def test_tables_are_read_as_python_writes_them(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    assert read_table(path).rows == [tuple(row) for row in rows]


def test_tables_have_line_numbers(write):
    table = read_table(write("t.csv", 'text,n\n\n"two\nlines",1\nb,2\n'))
    assert (
        table.lines == [3, 5] and table.column(0) == ["two\nlines", "b"] and table.column("n") == ["1", "2"]
    )


def test_tables_with_tabs_have_no_quotes(write):
    table = read_table(write("t.txt", 'text\tlabel\n"a\tb"\n'))
    assert table.rows == [('"a', 'b"')]


def test_tables_without_a_header_have_numbered_columns(write):
    assert read_table(write("t.csv", "a,b\nc,d"), header=False).column(1) == ["b", "d"]


def test_labels_are_numbered_in_the_order_of_numbers_or_of_the_alphabet(write):
    path = write("t.csv", "text,label,stars\nx,pos,10\ny,neg,2\nz,pos,10\n")
    assert read_labelled(path).names == ("neg", "pos")
    found = read_labelled(path, label="stars")
    assert (
        found.names == ("2", "10") and found.labels.tolist() == [1, 0, 1] and found.labels.dtype == np.int32
    )
    assert read_labelled(path, names=("pos", "neg", "none")).labels.tolist() == [0, 1, 0]
    numbers = read_labelled(path, label=2, numbers=True).labels
    assert numbers.tolist() == [10, 2, 10] and numbers.dtype == np.float32


def test_pairs_come_from_two_files_or_from_one_table(write):
    one, other = write("x.en", "a b\n\n c\n"), write("x.es", "A B\n\nC")
    pairs = read_parallel(one, other)
    assert pairs == (["a b", "c"], ["A B", "C"])
    assert read_parallel(write("t.tsv", "es\ten\nA B\ta b\nC\tc\n"), columns=("en", "es")) == pairs


READERS = {
    "string": read_string,
    "table": read_table,
    "labelled": read_labelled,
    "numbers": lambda path: read_labelled(path, numbers=True),
    "named": lambda path: read_labelled(path, names=("a", "b")),
    "parallel": read_parallel,
    "two": lambda path: read_parallel(path.with_name("other"), path),
}


@pytest.mark.parametrize(
    ("reader", "name", "data", "message"),
    [
        (
            "string",
            "x.txt",
            b"good\n\xe9t\xe9",
            r"expected utf-8, got byte 0xe9 in line 2 of .* pass its encoding",
        ),
        ("string", "x.txt", b"a\nb\0", "got a zero character in line 2 of .* Use read_bytes"),
        ("string", "x.txt", b"\xef\xbb\xbf", "byte order mark alone"),
        ("string", "x.txt", b"\xff\xfea", "expected utf-16-le, got byte 0x61 in line 1"),
        ("string", "x.txt", b"", "which is empty"),
        (
            "table",
            "x.csv",
            "a,b\n1,2\n3\n",
            "expected 2 fields separated by commas, as in line 1, got 1 in line 3",
        ),
        (
            "table",
            "x.tsv",
            "a\tb\n1\t2\t3\n",
            "separated by tabs, as in line 1, got 3 in line 2 .* Remove tabs",
        ),
        ("table", "x.csv", 'a,b\n"1,2\n3,4\n', "expected the quotes of line 2 to close"),
        ("table", "x.csv", 'a,b\n1,"2"3\n', "in line 2 .* Write a quote inside a field twice"),
        ("table", "x.csv", "a,a\n1,2\n", "expected columns of different names, got 'a' twice in line 1"),
        ("table", "x.csv", "a,b\n", "got the header alone"),
        ("table", "x.csv", "\n\n", "got empty lines alone"),
        ("labelled", "x.csv", "txt,label\nx,y\n", "expected a column 'text', got 'txt', 'label' in line 1"),
        ("labelled", "x.csv", "text,label\nx,a\n ,b\n", "expected a text, got an empty field in line 3"),
        ("labelled", "x.csv", "text,label\nx,a\ny,a\n", "expected at least two classes, got 'a'"),
        ("named", "x.csv", "text,label\nx,c\n", "expected one of the classes 'a', 'b', got 'c' in line 2"),
        ("numbers", "x.csv", "text,label\nx,1\ny,nan\n", "expected a finite number, got 'nan' in line 3"),
        ("numbers", "x.csv", "text,label\nx,many\n", "expected a finite number, got 'many' in line 2"),
        (
            "parallel",
            "x.tsv",
            "en\tes\na\tA\nb\t\n",
            "expected a sentence in line 3 of column 'es', as column 'en'",
        ),
        (
            "parallel",
            "x.tsv",
            "en\tes\n\tA\n",
            "expected a sentence in line 2 of column 'en', as column 'es' has one",
        ),
        ("two", "x.es", "A\nB\nC\n", "expected as many lines in .*x.es' as in .*other', 2, got 3"),
        ("two", "x.es", "A\n\n", "expected a sentence in line 2 of 'x.es', as 'other' has one"),
    ],
)
def test_errors_name_the_line_and_the_remedy(reader, name, data, message, write):
    write("other", "a\nb\n")
    with pytest.raises(ValueError, match=message) as caught:
        READERS[reader](write(name, data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delimiter": ",,"}, r"read_table\(delimiter\): expected one character, got ',,'"),
        ({"encoding": "utf8x"}, r"read_string\(encoding\): expected the name of an encoding, got 'utf8x'"),
        ({"encoding": "rot13"}, r"read_string\(encoding\): expected the name of an encoding"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, write):
    with pytest.raises(ValueError, match=message):
        read_table(write("x.csv", "a,b\n1,2\n"), **arguments)
