"""Test that shapes in annotations are executed, after a function's own checks where it has some."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest
from helpers.shapes import checked_afterwards, has_shape
from jaxtyping import Array, Float, PyTree, TypeCheckError, jaxtyped

from seqjax.probes import total_log_norm

executed = jaxtyped(typechecker=checked_afterwards)


class Record(NamedTuple):
    rows: Float[Array, "N K"]
    name: str = ""


def first_columns(xs: Float[Array, "N D"], k: int) -> Float[Array, "N k"]:
    if xs.ndim != 2:
        raise ValueError("expected xs [N, D]")
    return xs[:, : int(k)]


def pairs(xs: Float[Array, " N"], rows: Any) -> Record:
    return Record(rows)


def test_a_functions_own_error_comes_first():
    with pytest.raises(ValueError, match=r"expected xs \[N, D\]"):
        executed(first_columns)(jnp.ones(3), 2)


def test_types_without_shapes_are_not_checked():
    assert executed(first_columns)(jnp.ones((3, 4)), "2").shape == (3, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: executed(first_columns)(jnp.ones((3, 4), int), 2),
        lambda: executed(lambda_of(lambda xs: xs[:1]))(jnp.ones((3, 4))),
        lambda: executed(lambda_of(lambda xs: xs[0]))(jnp.ones((3, 4))),
    ],
    ids=["argument", "a letter with two meanings", "number of axes"],
)
def test_a_wrong_shape_is_found_after_the_call(call):
    with pytest.raises(TypeCheckError):
        call()


def lambda_of(function):
    def result(xs: Float[Array, "N D"]) -> Float[Array, "N D"]:
        return function(xs)

    return result


def test_fields_of_a_record_have_the_letters_of_the_arguments():
    assert executed(pairs)(jnp.ones(3), jnp.ones((3, 2))).rows.shape == (3, 2)
    with pytest.raises(TypeCheckError):
        executed(pairs)(jnp.ones(3), jnp.ones((4, 2)))


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (Float[Array, "T"], True),
        (Float[Array, "T"] | None, True),
        (dict[str, Float[Array, ""]], True),
        (PyTree[Float[Array, "T *B"]], True),
        (list[int], False),
        (Any, False),
    ],
    ids=str,
)
def test_shapes_are_found_inside_other_types(hint, found):
    assert has_shape(hint) is found


def test_the_shapes_of_seqjax_are_executed():
    """As conftest says it; the function itself takes integers without an error."""
    with pytest.raises(TypeCheckError, match="total_log_norm"):
        total_log_norm([jnp.ones((3, 2), int)])
