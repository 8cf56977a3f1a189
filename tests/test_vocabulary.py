"""Test vocabularies: what is decoded is what was encoded, and a file has all of it."""

import builtins
import collections
import json
import pickle
import re

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from seqjax.datasets import (
    END,
    PAD,
    START,
    UNKNOWN,
    Bytes,
    Characters,
    Subwords,
    Words,
    read_vocabulary,
    write_vocabulary,
)
from seqjax.datasets.vocabulary_files import vocabulary_to_json
from seqjax.training import load_vocabulary
from seqjax.training.definition import write_definition

TEXTS = ["the cat sat on the mat\nand the dog", "a dog in  the house, señor", "The end."]


@pytest.fixture(scope="module")
def subwords():
    pytest.importorskip("sentencepiece")
    return Subwords.train(TEXTS, size=45)


def every(subwords):
    return [Bytes(), Characters.train(TEXTS), Words.train(TEXTS, lower=False), subwords]


@given(st.text(st.characters(codec="utf-8")))
def test_bytes_give_any_text_again(text):
    tokens = Bytes().encode(text)
    assert Bytes().decode(tokens) == text and tokens.dtype == np.int32
    assert tokens.tolist() == [4 + byte for byte in text.encode()]


@given(st.text(alphabet=sorted(set("".join(TEXTS)))))
def test_characters_and_subwords_give_texts_of_their_characters_again(subwords, text):
    for vocabulary in (Characters.train(TEXTS), subwords):
        tokens = vocabulary.encode(text)
        assert vocabulary.decode(tokens) == text and tokens.dtype == np.int32
        assert not set(tokens.tolist()) & {PAD, START, END, UNKNOWN}
        assert not tokens.size or (tokens.min() > UNKNOWN and tokens.max() < vocabulary.size)


def test_subwords_are_fewer_than_characters(subwords):
    assert len(subwords.encode(TEXTS[0])) < 0.7 * len(TEXTS[0]) and subwords.size == 45


def test_words_are_counted():
    words = Words.train(TEXTS)
    counts = collections.Counter(re.findall(r"[a-zñ]+|[.,]", " ".join(TEXTS).lower()))
    assert set(words.words) == set(counts) and words.words[0] == "the"
    assert [counts[word] for word in words.words] == sorted(counts.values(), reverse=True)
    assert Words.train(TEXTS, size=6).words == words.words[:2]
    assert Words.train(TEXTS, min_count=2).words == ("the", "dog")
    tokens = words.encode("The DOG, the end")
    assert words.encode(words.decode(tokens)).tolist() == tokens.tolist()


def test_specials_are_the_same_in_all(subwords):
    for vocabulary in every(subwords):
        tokens = vocabulary.encode("the cat")
        framed = [START, *tokens.tolist(), END, PAD, UNKNOWN]
        assert vocabulary.decode(framed) == vocabulary.decode(jnp.array(tokens)) == "the cat"
        assert vocabulary.decode([UNKNOWN]) in ("\ufffd", "<unknown>") and vocabulary.decode([]) == ""


def test_what_is_unknown_is_said(subwords):
    for vocabulary in every(subwords)[1:]:
        assert vocabulary.encode("Ω").tolist() == [UNKNOWN]


def test_files_give_vocabularies_again(subwords, tmp_path):
    for vocabulary in every(subwords):
        write_vocabulary(tmp_path / "v.json", vocabulary)
        found = read_vocabulary(tmp_path / "v.json")
        assert found == vocabulary and hash(found) == hash(vocabulary)
        assert pickle.loads(pickle.dumps(vocabulary)).decode(found.encode("the cat")) == "the cat"
    assert json.loads((tmp_path / "v.json").read_text())["kind"] == "subwords"


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "no json",
        '{"kind": "letters"}',
        '{"kind": "characters"}',
        '{"kind": "characters", "symbols": 3}',
    ],
)
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected a vocabulary written by write_vocabulary, got .*v.json"):
        read_vocabulary(tmp_path / "v.json")


def test_a_run_has_its_vocabularies_by_name(subwords, tmp_path):
    for vocabulary in every(subwords):
        write_definition(tmp_path, {"source": vocabulary_to_json(vocabulary), "classes": ["a", "b"]})
        assert load_vocabulary(tmp_path, "source") == vocabulary
    for name in ("vocabulary", "classes"):
        with pytest.raises(ValueError, match=rf"load_vocabulary: expected one of source .* got '{name}'"):
            load_vocabulary(tmp_path, name)
    with pytest.raises(
        ValueError, match=r"read_vocabulary: .* use seqjax.training.load_vocabulary\(folder\)"
    ):
        read_vocabulary(tmp_path / "application.json")
    write_definition(tmp_path, {"columns": ["a"]})
    with pytest.raises(ValueError, match="expected a run on texts, which has a vocabulary"):
        load_vocabulary(tmp_path)
    write_definition(tmp_path, {"vocabulary": {"kind": "letters"}})
    with pytest.raises(ValueError, match="expected a vocabulary in .*application.json"):
        load_vocabulary(tmp_path)
    (tmp_path / "application.json").unlink()
    with pytest.raises(
        ValueError, match=r"it has no application.json. A language of bytes .* bytes\(tokens\)"
    ):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Characters("abc").decode([7]), "characters.decode: expected tokens from 0 to 6, got 7"),
        (lambda: Bytes().decode([-1]), "bytes.decode: expected tokens from 0 to 259, got -1"),
        (lambda: Bytes().decode([0.5]), r"bytes.decode: expected integers \[N\], got \[1\] of float"),
        (lambda: Bytes().decode([[1]]), r"bytes.decode: expected integers \[N\], got \[1, 1\]"),
        (
            lambda: Characters.train([""]),
            "Characters.train: expected texts in which something occurs 1 times",
        ),
        (
            lambda: Words.train(["a b"], min_count=2),
            "Words.train: expected texts in which something occurs 2 times",
        ),
        (lambda: Words.train(["a"], size=4), r"Words.train\(size\): expected a whole number of at least 5"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", [6, 4000])
def test_sizes_that_the_texts_do_not_have_are_refused_in_one_line(size):
    pytest.importorskip("sentencepiece")
    with pytest.raises(
        ValueError, match=f"expected texts for {size} subwords, got SentencePiece's"
    ) as caught:
        Subwords.train(TEXTS, size=size)
    assert "\n" not in str(caught.value)


def test_subwords_need_sentencepiece(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "sentencepiece":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"expected the package sentencepiece, got none. Run \"pip install"):
        Subwords.train(TEXTS)
