"""Test generation and beam search against loops by hand, enumeration of all sequences, and closed forms."""

import dataclasses
import functools
import itertools
import pickle
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiers import slow

import seqjax as sj
from seqjax.decode import Generated, keep_top_k, keep_top_p, wu_length_penalty
from seqjax.testing import strict_promotion

KEY = jax.random.key(0)
B, V, END = 3, 5, 2


# ---------------------------------------------------------------- layers to decode from


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def writes_and_attends(params, carry, u):
    """A cell whose carry has a memory that each hypothesis writes, and integers of its own path and of its step."""
    memory, count, code = carry
    code = (2 * code + (u[..., 0] > 0)) % 7
    query = jnp.tanh(u @ params + jnp.cos(code)[..., None])
    weights = jax.nn.softmax(jnp.einsum("...sd,...d->...s", memory, query))
    h = jnp.tanh(u + jnp.einsum("...s,...sd->...d", weights, memory))
    slot = jnp.arange(memory.shape[-2]) == (count % memory.shape[-2])[..., None]
    return (jnp.where(slot[..., None], h[..., None, :], memory), count + 1, code.astype(jnp.int32)), h


attention = sj.Cell(
    init=lambda key, x: jax.random.normal(key, (x.shape[-1], x.shape[-1])),
    initial_carry=lambda params, x: (
        jnp.zeros((*x.shape[:-1], 2, x.shape[-1]), x.dtype),
        jnp.zeros(x.shape[:-1], jnp.int32),
        jnp.zeros(x.shape[:-1], jnp.int32),
    ),
    recurrence=sj.Step(writes_and_attends),
)


@functools.cache
def model(name, vocabulary=V, batch=(B,)):
    """A layer, random params in float64, and a random carry, its integers too."""
    inner = {"lstm": sj.recurrent(sj.lstm(4)), "attention": sj.recurrent(attention)}[name]
    layer = sj.serial(sj.pointwise(nn.Embed(vocabulary, 4)), inner, sj.pointwise(nn.Dense(vocabulary)))
    params = jax.eval_shape(layer.init, KEY, jnp.zeros(batch, jnp.int32))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda a: jnp.asarray(1.5 * rng.normal(size=a.shape)), params)

    def shake(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 5, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape))

    return layer, params, jax.tree.map(shake, layer.initial_carry(params, jnp.zeros(batch, jnp.int32)))


MODELS = ["lstm", "attention"]
PROMPT = np.random.default_rng(7).integers(0, V, (4, B))
RANDOM = sj.categorical(temperature=1.3, top_k=4, top_p=0.95)


def table(logits):
    """A layer that gives the logits ``[V, V]`` of the row of its token."""
    logits = jnp.asarray(logits)
    return sj.pointwise(lambda token: logits[token])


def at_count(logits_of):
    """A layer whose carry counts its steps: ``logits_of(count, token)``, the first count being 1."""

    def step(params, carry, x, flags):
        after = carry + 1
        after = after if flags.mask is None else jnp.where(flags.mask, after, carry)
        return after, logits_of(after, x)

    def unroll(params, carry, xs, flags):
        return jax.lax.scan(lambda carry, x: step(params, carry, x, sj.Flags()), carry, xs)

    return sj.Layer(
        init=lambda key, x: (),
        initial_carry=lambda params, x: jnp.zeros(x.shape, jnp.int32),
        step_fn=step,
        unroll_fn=unroll,
    )


def rows(tree, index, axis=0):
    return jax.tree.map(lambda a: jnp.take(a, np.array(index), axis), tree)


def log_softmax(logits):
    logits = np.asarray(logits, float)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# ---------------------------------------------------------------- filters and samplers


def top_k_by_hand(logits, k):
    kept = sorted(range(len(logits)), key=lambda v: -logits[v])[:k]  # stable: of equal ones the first
    return np.array([x if v in kept else -np.inf for v, x in enumerate(logits)])


def top_p_by_hand(logits, p):
    """Holtzman et al. 2020, eq. 2: the smallest set whose probabilities sum to p at least."""
    probabilities = np.exp(log_softmax(logits))
    kept, mass = [], 0.0
    for v in sorted(range(len(logits)), key=lambda v: -logits[v]):
        if mass >= p:
            break
        kept.append(v)
        mass += probabilities[v]
    return np.array([x if v in kept else -np.inf for v, x in enumerate(logits)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.fast_cases(1)
def test_filters_equal_their_transcription(seed):
    logits = 2 * normal(seed, 9)
    logits[[3, 5]] = logits.max()  # ties
    logits[7] = -np.inf
    for k in (1, 2, 4, 9, 30):
        np.testing.assert_array_equal(keep_top_k(jnp.asarray(logits), k), top_k_by_hand(logits, k))
    for p in (1e-9, 0.1, 0.5, 0.8, 0.99, 1 - 1e-9):
        np.testing.assert_array_equal(keep_top_p(jnp.asarray(logits), p), top_p_by_hand(logits, p))
    np.testing.assert_array_equal(keep_top_p(jnp.asarray(logits), 1.0), logits)


def test_a_nucleus_that_is_reached_exactly_ends_there():
    logits = jnp.log(jnp.asarray([0.25, 0.5, 0.125, 0.125]))
    kept = jnp.isfinite(keep_top_p(logits, 0.75))
    np.testing.assert_array_equal(kept, [True, True, False, False])


def expected_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    logits = logits / temperature
    logits = logits if top_k is None else top_k_by_hand(logits, top_k)
    return np.exp(log_softmax(logits if top_p is None else top_p_by_hand(logits, top_p)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 3},
        {"top_p": 0.7},
        {"temperature": 2.0, "top_k": 4, "top_p": 0.8},
    ],
    ids=str,
)
@pytest.mark.fast_cases(3)
def test_frequencies_are_the_probabilities(options):
    count, logits = 20_000, 0.7 * normal(3, 6)
    layer = table(np.broadcast_to(logits, (6, 6)))
    prompt = jnp.zeros((1, count), jnp.int32)
    made = sj.generate(layer, (), (), prompt, max_length=2, sampler=sj.categorical(**options), key=KEY)
    expected = count * expected_probabilities(logits, **options)
    possible = expected > 0
    assert 2 <= possible.sum() and (possible.sum() < 6 or options.keys() <= {"temperature"})
    for tokens in np.asarray(made.tokens):
        seen = np.bincount(tokens, minlength=6)
        assert (seen[~possible] == 0).all()
        chi_square = ((seen - expected)[possible] ** 2 / expected[possible]).sum()
        assert chi_square < 40  # with at most 5 degrees of freedom, 40 has a probability of 1.5e-7
    # Draws of one row at different steps are independent: as often equal as two drawn anew.
    same, equal = (made.tokens[0] == made.tokens[1]).sum(), ((expected / count) ** 2).sum()
    assert abs(same - count * equal) < 5 * np.sqrt(count * equal * (1 - equal))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_a_low_temperature_is_greedy(temperature):
    logits = jnp.asarray(normal(0, 50, 8), jnp.float32)
    sampler = sj.categorical(temperature=temperature, top_p=1e-300)
    tokens = jax.vmap(sampler.choose)(jax.random.split(KEY, 50), logits)
    np.testing.assert_array_equal(tokens, jnp.argmax(logits, -1))
    np.testing.assert_array_equal(tokens, jax.vmap(lambda x: sj.greedy().choose(None, x))(logits))


def test_equal_logits_share_at_a_temperature_that_underflows_too():
    choose = sj.categorical(temperature=1e-300).choose
    logits = jnp.asarray([1.0, 2.0, 2.0, 0.0], jnp.float32)
    tokens = jax.vmap(choose, (0, None))(jax.random.split(KEY, 50), logits)
    assert set(np.asarray(tokens).tolist()) == {1, 2}


def test_one_of_k_is_greedy_with_ties_too():
    logits = jnp.asarray([1.0, 2.0, 2.0, 0.0])
    keys = jax.random.split(KEY, 20)
    for sampler in (sj.categorical(top_k=1), sj.categorical(top_p=0.1)):
        assert set(np.asarray(jax.vmap(sampler.choose, (0, None))(keys, logits))) == {1}
    assert sj.greedy().choose(None, logits) == 1


def test_samplers_are_values():
    assert sj.categorical(top_k=4) == sj.categorical(temperature=1.0, top_k=4) != sj.categorical(top_k=5)
    assert hash(sj.greedy()) == hash(sj.greedy()) and sj.greedy() != sj.categorical()
    assert repr(sj.categorical(top_p=0.9)) == "categorical(top_p=0.9)"
    assert pickle.loads(pickle.dumps(RANDOM)) == RANDOM


# ---------------------------------------------------------------- generation


def by_hand(layer, params, carry, prompt, sampler, key, length):
    """The prompt and what follows, token by token with `step`, one row at a time in the choice alone."""
    step = jax.jit(layer.step)
    choose = jax.jit(sampler.choose)
    for token in prompt:
        carry, logits = step(params, carry, jnp.asarray(token, jnp.int32))
    tokens, log_probabilities = [], []
    for t in range(length):
        keys = [jax.random.fold_in(jax.random.fold_in(key, r), t) for r in range(prompt.shape[1])]
        token = np.array([int(choose(k, row)) for k, row in zip(keys, logits, strict=True)])
        tokens.append(token)
        log_probabilities.append(log_softmax(logits)[np.arange(len(token)), token])
        before, (carry, logits) = carry, step(params, carry, jnp.asarray(token, jnp.int32))
    return np.stack(tokens), np.stack(log_probabilities), before


@pytest.mark.parametrize("sampler", [sj.greedy(), RANDOM], ids=repr)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_generation_equals_steps_by_hand(name, sampler):
    layer, params, carry = model(name)
    tokens, log_probabilities, after = by_hand(layer, params, carry, PROMPT, sampler, KEY, 6)
    made = sj.generate(layer, params, carry, PROMPT, max_length=6, sampler=sampler, key=KEY)
    np.testing.assert_array_equal(made.tokens, tokens)
    np.testing.assert_allclose(made.log_probabilities, log_probabilities, rtol=1e-10)
    np.testing.assert_array_equal(made.lengths, [6] * B)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), made.carry, after)
    assert made.tokens.dtype == made.lengths.dtype == jnp.int32


ENDINGS = {
    "none": {},
    "one end token": {"end_token": 3},
    "several end tokens": {"end_token": [3, 0]},
    "stop sequences": {"stop_sequences": [[1, 4], [2], (0, 0, 1)]},
    "all with a minimum": {"end_token": (3, 1), "stop_sequences": [[4, 4], [0]], "min_length": 4},
}


def cut(row, ends=(), stops=(), least=0):
    """The number of tokens of a row after which it ends, by hand."""
    for n in range(1, len(row) + 1):
        last = [tuple(row[n - len(stop) : n]) == tuple(stop) and n >= len(stop) for stop in stops]
        if row[n - 1] in ends or (n >= least and any(last)):
            return n
    return len(row)


@pytest.mark.parametrize("sampler", [sj.greedy(), RANDOM], ids=repr)
@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.fast_cases(2)
def test_a_stream_equals_generation_and_rows_end_where_they_should(name, sampler):
    layer, params, carry = model("lstm")
    options = ENDINGS[name] | {"sampler": sampler, "key": KEY, "max_length": 12, "pad_token": 2}
    made = sj.generate(layer, params, carry, PROMPT, **options)
    ends = np.atleast_1d(options.get("end_token", [])).tolist()
    least = options.get("min_length", 0)
    for row in range(B):
        size = int(made.lengths[row])
        tokens = np.asarray(made.tokens[:, row]).tolist()
        assert cut(tokens[:size], ends, options.get("stop_sequences", ()), least) == size
        assert size == 12 or tokens[size:] == [2] * (12 - size)
        assert not set(tokens[: max(least - 1, 0)]) & set(ends)
    steps = list(sj.stream(layer, params, carry, PROMPT, **options))
    assert len(steps) == int(made.lengths.max())
    found = np.stack([step.token for step in steps])
    np.testing.assert_array_equal(found, made.tokens[: len(steps)])
    chosen = np.stack([step.log_probability for step in steps])
    np.testing.assert_allclose(chosen, made.log_probabilities[: len(steps)], rtol=1e-12)
    assert (np.stack([~step.ended for step in steps]).sum(0) <= made.lengths).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), steps[-1].carry, made.carry)


def test_without_endings_in_the_way_a_row_is_what_it_is_with_them():
    layer, params, carry = model("lstm")
    whole = np.asarray(sj.generate(layer, params, carry, PROMPT, max_length=12).tokens)
    for options in ({"end_token": [3, 0]}, {"stop_sequences": [whole[2:5, 0].tolist(), [1, 1]]}):
        made = sj.generate(layer, params, carry, PROMPT, max_length=12, **options)
        for row in range(B):
            size = cut(
                whole[:, row].tolist(), options.get("end_token", ()), options.get("stop_sequences", ())
            )
            assert made.lengths[row] == size
            np.testing.assert_array_equal(made.tokens[:size, row], whole[:size, row])


def test_log_probabilities_are_the_layers_own_where_end_tokens_wait():
    layer = sj.pointwise(lambda token: jnp.log(jnp.asarray([0.1, 0.2, 0.7])))
    made = sj.generate(layer, (), (), jnp.asarray([[0]]), max_length=3, end_token=2, min_length=3)
    assert made.tokens[:, 0].tolist() == [1, 1, 2]
    np.testing.assert_allclose(made.log_probabilities[:, 0], np.log([0.2, 0.2, 0.7]))
    nothing = sj.generate(layer, (), (), jnp.asarray([[0]]), max_length=3, end_token=[0, 1, 2], min_length=2)
    assert nothing.tokens[:, 0].tolist() == [-1, 0, 0] and nothing.lengths[0] == 1


def test_a_temperature_that_changes_compiles_nothing_and_equals_that_of_the_sampler():
    traces = []

    def logits(token):
        traces.append(1)
        return jnp.sin(jnp.arange(V) * (token + 1.0))

    layer, prompt = sj.pointwise(logits), jnp.asarray([[0, 1, 2]])
    run = functools.partial(sj.generate, layer, (), (), prompt, max_length=20, key=KEY)
    fixed = run(sampler=sj.categorical(temperature=0.5))
    changed = run(sampler=sj.categorical(), temperature=0.5)
    np.testing.assert_array_equal(fixed.tokens, changed.tokens)
    before = len(traces)
    for value in (0.1, 2.0, np.float64(1e-300), jnp.asarray(7.0)):
        run(sampler=sj.categorical(), temperature=value)
    assert len(traces) == before
    per_row = run(sampler=sj.categorical(), temperature=jnp.asarray([0.5, 1e-9, 3.0]))
    np.testing.assert_array_equal(per_row.tokens[:, 0], fixed.tokens[:, 0])
    np.testing.assert_array_equal(per_row.tokens[:, 1], run(sampler=sj.greedy()).tokens[:, 1])
    steps = list(
        sj.stream(layer, (), (), prompt, max_length=20, key=KEY, sampler=sj.categorical(), temperature=0.5)
    )
    np.testing.assert_array_equal(np.stack([s.token for s in steps]), fixed.tokens)


def test_several_end_tokens_end_hypotheses():
    layer, params, carry = model("lstm")
    options = {"beam_size": 4, "max_length": 6}
    found = sj.beam_search(layer, params, carry, PROMPT, end_token=[3, 0], **options)
    for row, k in itertools.product(range(B), range(4)):
        size = int(found.lengths[row, k])
        tokens = np.asarray(found.tokens[:size, row, k]).tolist()
        assert not set(tokens[:-1]) & {3, 0} and (tokens[-1] in (3, 0)) == bool(found.finished[row, k])
    one = sj.beam_search(layer, params, carry, PROMPT, end_token=3, **options)
    same = sj.beam_search(layer, params, carry, PROMPT, end_token=[3], **options)
    np.testing.assert_array_equal(one.tokens, same.tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end_token": [1, -1]}, r"generate\(end_token\): expected a whole number of at least 0, got -1"),
        ({"end_token": [1, V]}, rf"generate\(end_token\): expected a token below V = {V}, got {V}"),
        ({"stop_sequences": [[1], []]}, "expected sequences of at least one token, got an empty one"),
        (
            {"stop_sequences": [1, 2]},
            r"expected sequences of tokens such as \[\[3, 1\], \[2\]\], got \[1, 2\]",
        ),
        ({"stop_sequences": "ab"}, r"expected sequences of tokens .*, got 'ab'"),
        ({"stop_sequences": [[V]]}, rf"generate\(stop_sequences\): expected a token below V = {V}"),
        ({"min_length": -1}, r"generate\(min_length\): expected a whole number of at least 0, got -1"),
        ({"min_length": 4}, r"generate\(min_length\): expected at most max_length=3, got 4"),
        (
            {"temperature": 0.0},
            r"expected finite numbers above 0, got 0.0\. For the most probable token use greedy",
        ),
        ({"temperature": [1.0, -1.0, 1.0]}, r"expected finite numbers above 0, got \[1.0, -1.0, 1.0\]"),
        (
            {"temperature": [1.0, 1.0]},
            r"expected one number above 0, or one per row \[3\], got float64 \[2\]",
        ),
        ({"temperature": True}, r"temperature\): expected one number above 0, .* got bool"),
    ],
)
def test_endings_and_temperatures_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sj.generate(LAYER, PARAMS, CARRY, PROMPT, max_length=3, **options)
    with pytest.raises(ValueError, match=message.replace("generate", "(stream|generate)")):
        next(sj.stream(LAYER, PARAMS, CARRY, PROMPT, max_length=3, **options))
    with pytest.raises(TypeError, match="stream: expected the arguments of generate, got 'tokens'"):
        sj.stream(LAYER, PARAMS, CARRY, PROMPT, max_length=3, tokens=2)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_generation_goes_on_from_its_carry_and_last_token(name):
    layer, params, carry = model(name)
    whole = sj.generate(layer, params, carry, PROMPT, max_length=7)
    first = sj.generate(layer, params, carry, PROMPT, max_length=3)
    second = sj.generate(layer, params, first.carry, first.tokens[-1:], max_length=4)
    np.testing.assert_array_equal(jnp.concatenate([first.tokens, second.tokens]), whole.tokens)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_a_row_stops_at_its_end_token_and_its_carry_stays(name):
    layer, params, carry = model(name)
    end, length = 3, 8
    options = {"sampler": sj.categorical(temperature=2.0), "key": KEY}
    free = sj.generate(layer, params, carry, PROMPT, max_length=length, **options)
    made = sj.generate(layer, params, carry, PROMPT, max_length=length, end_token=end, pad_token=4, **options)
    lengths = []
    for r in range(B):
        tokens = list(np.asarray(free.tokens[:, r]))
        n = tokens.index(end) + 1 if end in tokens else length
        lengths.append(n)
        assert list(made.tokens[:, r]) == tokens[:n] + [4] * (length - n)
        np.testing.assert_array_equal(made.log_probabilities[:n, r], free.log_probabilities[:n, r])
        assert (np.asarray(made.log_probabilities[n:, r]) == 0).all()
    read = jnp.concatenate([jnp.asarray(PROMPT, jnp.int32), free.tokens])
    all_but_the_last = sj.lengths_to_mask(np.array(lengths) + len(PROMPT) - 1, len(read))
    expected, _ = jax.jit(layer.unroll)(params, carry, read, mask=all_but_the_last)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), made.carry, expected)
    np.testing.assert_array_equal(made.lengths, lengths)
    assert len(set(lengths)) == 3 and max(lengths) == length


def test_the_loop_ends_with_the_last_row():
    """Step 4 would give NaN, which a row that ran on would show, were it not for the end token at step 3."""

    def logits_of(count, token):
        ends = jax.nn.one_hot(jnp.where(count < 3, 1, END), V)
        return jnp.where((count < 4)[..., None], ends, jnp.nan)

    calls = []

    def counted(count, token):
        jax.debug.callback(lambda: calls.append(1))
        return logits_of(count, token)

    carry = jnp.zeros(2, jnp.int32)
    made = sj.generate(at_count(counted), (), carry, np.zeros((1, 2), int), max_length=50, end_token=END)
    jax.block_until_ready(made)
    jax.effects_barrier()
    np.testing.assert_array_equal(made.tokens[:4], [[1, 1], [1, 1], [END, END], [0, 0]])
    np.testing.assert_array_equal(made.lengths, [3, 3])
    np.testing.assert_array_equal(made.carry, [3, 3])
    assert len(calls) == 3


@pytest.mark.parametrize("pad", ["after", "before", "between"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_prompts_of_different_lengths_give_what_each_gives_alone(name, pad):
    layer, params, carry = model(name)
    lengths, places = [3, 6, 1], []
    for n in lengths:
        places.append({"after": range(n), "before": range(6 - n, 6), "between": [0, 2, 3, 5, 1, 4][:n]}[pad])
    prompt, mask = np.full((6, B), 10**6), np.zeros((6, B), bool)  # padding that is no token
    own = [np.random.default_rng(r).integers(0, V, n) for r, n in enumerate(lengths)]
    for r, place in enumerate(places):
        prompt[sorted(place), r], mask[sorted(place), r] = own[r], True
    keys = jax.random.split(KEY, B)
    options = {"max_length": 5, "sampler": RANDOM}
    made = sj.generate(layer, params, carry, prompt, mask=mask, key=keys, **options)
    for r in range(B):
        alone = sj.generate(layer, params, rows(carry, [r]), own[r][:, None], key=keys[r : r + 1], **options)
        np.testing.assert_array_equal(made.tokens[:, r], alone.tokens[:, 0])
        for a, b in zip(jax.tree.leaves(made.carry), jax.tree.leaves(alone.carry), strict=True):
            np.testing.assert_allclose(a[r], b[0], rtol=1e-10)


@pytest.mark.slow  # as in unroll
def test_none_is_the_initial_carry():
    layer, params, _ = model("lstm")
    carry = layer.initial_carry(params, PROMPT[0])
    for decode, options in ((sj.generate, {}), (sj.beam_search, {"beam_size": 2, "end_token": None})):
        one, other = (decode(layer, params, c, PROMPT, max_length=4, **options) for c in (None, carry))
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow  # prompts of different lengths show it too
def test_a_row_depends_on_no_other():
    layer, params, carry = model("attention")
    options = {"max_length": 8, "sampler": RANDOM, "end_token": END, "key": KEY}
    made = sj.generate(layer, params, carry, PROMPT, **options)
    fewer = sj.generate(layer, params, rows(carry, [0, 1]), PROMPT[:, :2], **options)
    np.testing.assert_array_equal(fewer.tokens, made.tokens[:, :2])
    prompt = PROMPT.copy()
    prompt[:, 0] = (prompt[:, 0] + 1) % V
    changed = sj.generate(layer, params, carry, prompt, **options)
    assert (np.asarray(changed.tokens[:, 0]) != np.asarray(made.tokens[:, 0])).any()
    np.testing.assert_array_equal(changed.tokens[:, 1:], made.tokens[:, 1:])


def test_seeds_are_reproducible_and_rows_draw_by_themselves():
    layer = table(np.zeros((9, 9)))
    prompt = np.zeros((1, 4), int)
    options = {"max_length": 10, "sampler": sj.categorical()}
    made, again, other = (
        sj.generate(layer, (), (), prompt, key=jax.random.key(seed), **options).tokens for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(made, again)
    assert (made != other).any()
    assert len({tuple(row) for row in np.asarray(made).T}) == 4
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(4))
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        own = sj.generate(layer, (), (), prompt, key=keys[np.array(order)], **options).tokens
        np.testing.assert_array_equal(own, made[:, np.array(order)])


def test_several_batch_axes_are_as_one():
    layer, params, carry = model("attention", batch=(6,))
    prompt = np.random.default_rng(0).integers(0, V, (2, 6))
    split = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), carry)
    options = {"max_length": 6, "sampler": RANDOM, "end_token": END, "key": KEY}
    made = sj.generate(layer, params, carry, prompt, **options)
    got = sj.generate(layer, params, split, prompt.reshape(2, 2, 3), **options)
    assert got.tokens.shape == (6, 2, 3)
    np.testing.assert_array_equal(got.tokens.reshape(6, 6), made.tokens)
    np.testing.assert_array_equal(got.lengths.reshape(6), made.lengths)
    beams = sj.beam_search(layer, params, carry, prompt, beam_size=3, max_length=4, end_token=END)
    got = sj.beam_search(
        layer, params, split, prompt.reshape(2, 2, 3), beam_size=3, max_length=4, end_token=END
    )
    assert got.tokens.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(got.tokens.reshape(beams.tokens.shape), beams.tokens)
    np.testing.assert_allclose(got.scores.reshape(6, 3), beams.scores, rtol=1e-10)


def test_no_rows_are_no_error():
    layer, params, carry = model("lstm")
    made = sj.generate(layer, params, rows(carry, np.zeros(0, int)), PROMPT[:, :0], max_length=3)
    assert made.tokens.shape == (3, 0) and made.lengths.shape == (0,)


def test_both_compile_once_for_the_same_shapes():
    traces = []

    def logits_of(count, token):
        traces.append(1)
        return jax.nn.one_hot((token + 1) % V, V)

    layer = at_count(logits_of)
    carry = jnp.zeros(B, jnp.int32)
    for decode, options in (
        (sj.generate, {"sampler": sj.categorical(top_k=2), "key": KEY}),
        (sj.beam_search, {"beam_size": 2, "end_token": END}),
    ):
        traces.clear()
        decode(layer, (), carry, PROMPT, max_length=4, **options)
        first = len(traces)
        if "sampler" in options:
            options = {"sampler": sj.categorical(top_k=2), "key": jax.random.key(5)}
        decode(layer, (), carry + 1, PROMPT[:, ::-1], max_length=4, **options)
        assert len(traces) == first > 0
        decode(layer, (), carry, PROMPT, max_length=5, **options)
        assert len(traces) > first


@pytest.mark.slow  # both are compiled anyway
def test_they_run_inside_a_jitted_function():
    layer, params, carry = model("lstm")

    @jax.jit
    def inside(params, carry, prompt, key):
        made = sj.generate(layer, params, carry, prompt, max_length=4, sampler=RANDOM, key=key)
        return made, sj.beam_search(layer, params, carry, prompt, beam_size=2, max_length=4, end_token=END)

    made, beams = inside(params, carry, jnp.asarray(PROMPT), KEY)
    outside = sj.generate(layer, params, carry, PROMPT, max_length=4, sampler=RANDOM, key=KEY)
    np.testing.assert_array_equal(made.tokens, outside.tokens)
    outside = sj.beam_search(layer, params, carry, PROMPT, beam_size=2, max_length=4, end_token=END)
    np.testing.assert_array_equal(beams.tokens, outside.tokens)


BAD = {"nan": [0.0, np.nan, 9.0], "inf": [0.0, np.inf, 0.0], "impossible": [-np.inf] * 3}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("sampler", [sj.greedy(), sj.categorical()], ids=repr)
@pytest.mark.fast_cases(2)
def test_bad_logits_are_seen(bad, sampler):
    """Row 0 reaches token 2, after which nothing can be chosen; row 1 stays at 0."""
    sure = [0.0, -np.inf, -np.inf]
    layer = table(np.stack([sure, [-np.inf, -np.inf, 0.0], BAD[bad]]))
    made = sj.generate(layer, (), (), np.array([[1, 0]]), max_length=4, sampler=sampler, key=KEY, pad_token=1)
    np.testing.assert_array_equal(made.tokens, [[2, 0], [-1, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(made.lengths, [2, 4])
    np.testing.assert_array_equal(made.log_probabilities, [[0, 0], [np.nan, 0], [0, 0], [0, 0]])
    beams = sj.beam_search(layer, (), (), np.array([[1, 0]]), beam_size=2, max_length=4, end_token=None)
    assert np.isnan(beams.scores[0]).all() and np.isnan(beams.log_probabilities[0]).all()
    assert (np.asarray(beams.tokens[:, 0]) == -1).all() and not beams.finished[0].any()
    np.testing.assert_array_equal(beams.tokens[:, 1, 0], [0, 0, 0, 0])
    np.testing.assert_array_equal(beams.scores[1], [0, -np.inf])


def test_an_empty_prompt_is_seen():
    layer, params, carry = model("lstm")
    mask = np.ones((4, B), bool)
    mask[:, 1] = False
    made = sj.generate(layer, params, carry, PROMPT, max_length=3, mask=mask)
    assert made.tokens[0, 1] == -1 and np.isnan(made.log_probabilities[0, 1]) and made.lengths[1] == 1
    assert (np.asarray(made.tokens[:, [0, 2]]) >= 0).all() and (made.lengths[np.array([0, 2])] == 3).all()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), made.carry, carry)
    beams = sj.beam_search(layer, params, carry, PROMPT, beam_size=2, max_length=3, end_token=None, mask=mask)
    np.testing.assert_array_equal(np.isnan(beams.scores), [[False] * 2, [True] * 2, [False] * 2])


def test_low_precision_logits_are_compared_in_float32_and_nothing_is_promoted():
    logits = jnp.asarray(normal(0, V, V), jnp.bfloat16)
    layer = table(logits)
    with strict_promotion():
        made = sj.generate(layer, (), (), PROMPT, max_length=4, sampler=RANDOM, key=KEY, end_token=END)
        beams = sj.beam_search(
            layer, (), (), PROMPT, beam_size=2, max_length=4, end_token=END, length_penalty=0.6
        )
    assert made.log_probabilities.dtype == beams.scores.dtype == jnp.float32
    first = log_softmax(logits.astype(jnp.float64))[PROMPT[-1], made.tokens[0]]
    np.testing.assert_allclose(made.log_probabilities[0], first, rtol=1e-6)


def test_a_carry_of_another_dtype_is_cast():
    layer, params, carry = model("lstm")
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    wide = jax.tree.map(np.asarray, carry)
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), carry)
    for decode, options in ((sj.generate, {}), (sj.beam_search, {"beam_size": 2, "end_token": END})):
        a, b = (decode(layer, params, c, PROMPT, max_length=4, **options) for c in (wide, narrow))
        np.testing.assert_array_equal(a.tokens, b.tokens)


# ---------------------------------------------------------------- beam search


def all_hypotheses(name, vocabulary, length, end, alpha, row):
    """``[(score, log probability, tokens)]``, best first, of all sequences that end, or have the full length; and
    the log probabilities of the next token after each prefix.
    """
    layer, params, carry = model(name, vocabulary)
    sequences = np.array(list(itertools.product(range(vocabulary), repeat=length)))
    many = jax.tree.map(lambda a: jnp.repeat(a[row : row + 1], len(sequences), 0), carry)
    first = np.full((len(sequences), 1), PROMPT_OF_BEAMS[row])
    inputs = np.concatenate([first, sequences[:, :-1]], 1).T
    _, logits = jax.jit(layer.unroll)(params, many, jnp.asarray(inputs, jnp.int32))
    steps = log_softmax(logits)
    after, found = {}, {}
    for i, sequence in enumerate(map(tuple, sequences)):
        for t in range(length):
            after[sequence[:t]] = steps[t, i]
        n = sequence.index(end) + 1 if end in sequence else length
        log_p = sum(steps[t, i, sequence[t]] for t in range(n))
        found[sequence[:n]] = (log_p / ((5 + n) / 6) ** alpha, log_p, sequence[:n])
    return sorted(found.values(), reverse=True), after


def beam_by_hand(after, size, vocabulary, length, end, alpha):
    """The search without its early end, from the table of log probabilities."""
    beam, done = [(0.0, ())], []
    for n in range(1, length + 1):
        candidates = [
            (log_p + after[tokens][v], (*tokens, v)) for log_p, tokens in beam for v in range(vocabulary)
        ]
        kept = sorted(candidates, reverse=True)[:size]
        done += [
            (log_p / ((5 + n) / 6) ** alpha, log_p, y) for log_p, y in kept if y[-1] == end or n == length
        ]
        beam = [(log_p, y) for log_p, y in kept if y[-1] != end]
    return sorted(done, reverse=True)[:size]


PROMPT_OF_BEAMS = np.array([0, 2, 1])


def search(name, vocabulary, **options):
    layer, params, carry = model(name, vocabulary)
    return sj.beam_search(layer, params, carry, PROMPT_OF_BEAMS[None], **options)


def assert_beams(beams, row, expected, size, length, end, pad):
    """A row of beams equals ``[(score, log probability, tokens)]`` and has nothing in the slots after those."""
    count = min(size, len(expected))
    for k, (score, log_p, tokens) in enumerate(expected[:count]):
        assert list(beams.tokens[:, row, k]) == [*tokens, *[pad] * (length - len(tokens))]
        assert beams.lengths[row, k] == len(tokens)
        assert beams.finished[row, k] == (tokens[-1] == end)
        np.testing.assert_allclose(beams.scores[row, k], score, rtol=1e-10)
        np.testing.assert_allclose(beams.log_probabilities[row, k], log_p, rtol=1e-10)
    assert (np.asarray(beams.scores[row, count:]) == -np.inf).all()
    assert (np.asarray(beams.lengths[row, count:]) == 0).all()
    assert (np.asarray(beams.tokens[:, row, count:]) == pad).all()


@pytest.mark.parametrize("alpha", [0.0, 0.6, *slow(2.0, -1.0)])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_a_beam_of_all_sequences_is_exact(name, alpha):
    length, size = 4, 3**4
    beams = search(name, 3, beam_size=size, max_length=length, end_token=1, length_penalty=alpha, pad_token=2)
    for row in range(B):
        expected, _ = all_hypotheses(name, 3, length, 1, alpha, row)
        assert len(expected) == 31  # 1 + 2 + 4 + 8 that end, 16 that do not
        assert_beams(beams, row, expected, size, length, 1, 2)


@pytest.mark.slow  # the loop by hand shows it too
def test_without_an_end_token_all_sequences_have_the_full_length():
    beams = search("attention", 3, beam_size=3**4, max_length=4, end_token=None)
    for row in range(B):
        expected, _ = all_hypotheses("attention", 3, 4, 99, 0.0, row)
        assert_beams(beams, row, expected, 3**4, 4, 99, 0)


@pytest.mark.parametrize("size", [1, 3, *slow(2, 5)])
@pytest.mark.parametrize("alpha", [0.0, -0.5, *slow(1.0)])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(2)
def test_a_narrow_beam_equals_the_search_by_hand_which_never_stops_early(name, alpha, size):
    length = 5
    beams = search(name, 3, beam_size=size, max_length=length, end_token=1, length_penalty=alpha)
    for row in range(B):
        _, after = all_hypotheses(name, 3, length, 1, alpha, row)
        expected = beam_by_hand(after, size, 3, length, 1, alpha)
        assert_beams(beams, row, expected, size, length, 1, 0)


@pytest.mark.slow  # narrow beams equal the search by hand
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_a_beam_of_one_is_greedy(name):
    layer, params, carry = model(name)
    for end in (END, 3):
        made = sj.generate(layer, params, carry, PROMPT, max_length=6, end_token=end)
        beams = sj.beam_search(layer, params, carry, PROMPT, beam_size=1, max_length=6, end_token=end)
        np.testing.assert_array_equal(beams.tokens[..., 0], made.tokens)
        np.testing.assert_array_equal(beams.lengths[..., 0], made.lengths)
        np.testing.assert_allclose(beams.log_probabilities[..., 0], made.log_probabilities.sum(0), rtol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.fast_cases(1)
def test_rows_of_a_beam_search_depend_on_no_other_and_masked_prompts_fit(name):
    layer, params, carry = model(name)
    options = {"beam_size": 3, "max_length": 5, "end_token": END, "length_penalty": 0.6}
    mask = np.array([[False, True, False], [True] * 3, [True, True, False], [True, False, False]])
    beams = sj.beam_search(layer, params, carry, PROMPT, mask=mask, **options)
    for r in range(B):
        alone = sj.beam_search(layer, params, rows(carry, [r]), PROMPT[mask[:, r], r : r + 1], **options)
        np.testing.assert_array_equal(beams.tokens[:, r], alone.tokens[:, 0])
        np.testing.assert_allclose(beams.scores[r], alone.scores[0], rtol=1e-10)


FAST = [[0.6, 0.4, 0], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.9, 0.06, 0.04]]
SLOW = [[0.3, 0.7, 0], [0.4, 0.6, 0], [0.9, 0.06, 0.04], [0.9, 0.06, 0.04]]


@pytest.mark.parametrize(
    ("steps_of", "alpha", "steps", "found"),
    [
        (FAST, 0.0, 2, {0.6: [0, 0, 0], 0.2: [1, 0, 0]}),
        (FAST, 1.0, 4, {0.6: [0, 0, 0], 0.2: [1, 0, 0]}),
        (FAST, -1.0, 2, {0.6: [0, 0, 0], 0.2: [1, 0, 0]}),
        (SLOW, -1.0, 3, {0.3: [0, 0, 0], 0.378: [1, 1, 0]}),
    ],
)
@pytest.mark.fast_cases(1)
def test_the_search_stops_when_nothing_better_can_come_and_not_before(steps_of, alpha, steps, found):
    """A beam of two and at most 20 tokens. Each step ends one hypothesis and leaves one.

    FAST: they end with .6 and .2, and .12 goes on; alpha 0 stops there, as .12 < .2, and so does alpha -1, as
    log(.12) 8/6 < log(.2) 7/6. With alpha 1 it may still become log(.12) 6/25 > log(.2) 6/7; so may .036 after step
    3; but .00216 after step 4 gives log(.00216) 6/25 < log(.2) 6/7.
    SLOW: they end with .3 and .28, and .42 goes on, which with alpha -1 may become log(.42) 8/6 > log(.28) 7/6 at the
    next step, though not at the last. It ends with .378 at step 3 and is the second best: log(.378) 8/6 < log(.3).
    """
    p = np.array([[1, 0, 0], *steps_of, *[[0.9, 0.06, 0.04]] * 16])

    def run(bomb):
        """What the search gives when every step from number `bomb` on gives NaN."""
        log_p = jnp.log(jnp.asarray(p)).at[bomb:].set(jnp.nan)
        layer = at_count(lambda count, token: log_p[count])
        return sj.beam_search(
            layer,
            (),
            jnp.zeros(1, jnp.int32),
            np.array([[1]]),
            beam_size=2,
            max_length=20,
            end_token=0,
            length_penalty=alpha,
        )

    stopped = run(steps + 1)
    np.testing.assert_array_equal(np.moveaxis(stopped.tokens[:3], 0, -1), [list(found.values())])
    np.testing.assert_allclose(np.exp(stopped.log_probabilities), [list(found)], rtol=1e-12)
    assert np.isnan(run(steps).scores).all()


@pytest.mark.parametrize(
    ("length", "alpha", "value"), [(1, 0.6, 1.0), (7, 1.0, 2.0), (19, 0.5, 2.0), (19, -1.0, 0.25), (9, 0, 1)]
)
def test_length_penalties(length, alpha, value):
    assert wu_length_penalty(length, alpha) == pytest.approx(value, rel=1e-15)


def test_a_length_penalty_prefers_longer_hypotheses():
    """0 ends at once with .5; 1 then 0 has .5 * .8 over two tokens."""
    logits = jnp.log(jnp.asarray([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5]]))
    layer = sj.pointwise(lambda token: logits[token])

    def best(alpha):
        beams = sj.beam_search(
            layer, (), (), np.array([[2]]), beam_size=4, max_length=4, end_token=0, length_penalty=alpha
        )
        return list(beams.tokens[: beams.lengths[0, 0], 0, 0])

    assert best(0.0) == [0] and best(3.0) == [1, 0]
    # The two are equal at log .5 = log .4 / (7/6)^alpha.
    even = np.log(np.log(0.4) / np.log(0.5)) / np.log(7 / 6)
    assert best(even - 1e-3) == [0] and best(even + 1e-3) == [1, 0]


# ---------------------------------------------------------------- errors


LAYER, PARAMS, CARRY = model("lstm")
GENERATE = {"max_length": 3}
BEAM = {"max_length": 3, "beam_size": 2, "end_token": END}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sj.categorical(temperature=0.0),
            "categorical(temperature): expected a finite number above 0",
        ),
        (
            lambda: sj.categorical(temperature=-1),
            "categorical(temperature): expected a finite number above 0",
        ),
        (
            lambda: sj.categorical(temperature=np.nan),
            "categorical(temperature): expected a finite number above 0",
        ),
        (lambda: sj.categorical(temperature=np.inf), "Use greedy() for the most probable token."),
        (
            lambda: sj.categorical(top_k=0),
            "categorical(top_k): expected a whole number of at least 1, or None, got 0.",
        ),
        (lambda: sj.categorical(top_k=2.0), "categorical(top_k): expected a whole number of at least 1"),
        (lambda: sj.categorical(top_k=True), "categorical(top_k): expected a whole number of at least 1"),
        (lambda: sj.categorical(top_p=0.0), "categorical(top_p): expected a number in (0, 1], or None"),
        (lambda: sj.categorical(top_p=1.1), "categorical(top_p): expected a number in (0, 1], or None"),
        (
            lambda: sj.categorical(top_p=np.nan),
            "categorical(top_p): expected a number in (0, 1], or None",
        ),
    ],
)
def test_samplers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_length": 0}, ValueError, "(max_length): expected a whole number of at least 1, got 0."),
        ({"max_length": 2.5}, ValueError, "(max_length): expected a whole number of at least 1, got 2.5."),
        ({"max_length": True}, ValueError, "(max_length): expected a whole number of at least 1, got True."),
        (
            {"end_token": -1},
            ValueError,
            "(end_token): expected a whole number of at least 0, or None, got -1.",
        ),
        ({"end_token": V}, ValueError, f"(end_token): expected a token below V = {V}, got {V}."),
        ({"pad_token": -1}, ValueError, "(pad_token): expected a whole number of at least 0, got -1."),
        ({"prompt": "the "}, TypeError, "(prompt): expected tokens [P, *B], got the text 'the '. Encode it"),
        ({"prompt": PROMPT[0]}, ValueError, "Pass first tokens [B] as `tokens[None]`."),
        ({"prompt": PROMPT[:0]}, ValueError, "with P of at least 1 and a batch axis, got [0, 3]."),
        (
            {"prompt": 1.0 * PROMPT},
            ValueError,
            "(prompt): expected tokens [P, *B] of an integer dtype, got float64",
        ),
        (
            {"mask": np.ones((4, B))},
            ValueError,
            "(mask): expected bool [4, 3], as the prompt, got float64 [4, 3].",
        ),
        (
            {"mask": np.ones((3, B), bool)},
            ValueError,
            "(mask): expected bool [4, 3], as the prompt, got bool [3, 3].",
        ),
        (
            {"layer": sj.lstm(3)},
            TypeError,
            "(layer): expected a layer, got lstm(hidden_size=3). Bind a cell with",
        ),
        (
            {"layer": sj.bidirectional(LAYER)},
            TypeError,
            "expected a causal layer, which runs token by token",
        ),
        (
            {"layer": sj.pointwise(lambda token: token), "params": (), "carry": ()},
            ValueError,
            "expected floating logits [*B, V] for tokens [*B] = [3], got int32 [3].",
        ),
        (
            {"layer": sj.pointwise(lambda token: jnp.zeros((2, 2))), "params": (), "carry": ()},
            ValueError,
            "expected floating logits [*B, V] for tokens [*B] = [3], got float64 [3, 2, 2].",
        ),
        (
            {"layer": at_count(lambda count, token: jnp.zeros((B, V))), "carry": jnp.zeros(1, int)},
            ValueError,
            "(carry)",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, message):
    given = {"layer": LAYER, "params": PARAMS, "carry": CARRY, "prompt": PROMPT} | arguments
    first = [given.pop(name) for name in ("layer", "params", "carry", "prompt")]
    for decode, options in ((sj.generate, GENERATE), (sj.beam_search, BEAM)):
        with pytest.raises(error, match=re.escape(message)) as raised:
            decode(*first, **options | given)
        assert str(raised.value).startswith(decode.__name__)


def test_a_random_sampler_needs_a_key():
    def run(**options):
        return sj.generate(LAYER, PARAMS, CARRY, PROMPT, max_length=3, sampler=RANDOM, **options)

    with pytest.raises(
        ValueError, match=r"generate\(key\): categorical\(.* is random: expected a key such as"
    ):
        run()
    with pytest.raises(TypeError, match=r"generate\(key\): expected a typed key such as jax.random.key\(0\)"):
        run(key=0)
    with pytest.raises(ValueError, match=r"generate\(key\): expected one key, or keys \[3\], got \[2\]\."):
        run(key=jax.random.split(KEY, 2))
    with pytest.raises(TypeError, match=r"generate\(sampler\): expected a sampler such as greedy\(\)"):
        sj.generate(LAYER, PARAMS, CARRY, PROMPT, max_length=3, sampler="greedy")
    assert isinstance(sj.generate(LAYER, PARAMS, CARRY, PROMPT, max_length=3), Generated)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_search(beam_size): expected a whole number of at least 1, got 0."),
        ({"length_penalty": np.nan}, "beam_search(length_penalty): expected a finite number, got nan."),
        ({"length_penalty": True}, "beam_search(length_penalty): expected a finite number, got True."),
    ],
)
def test_arguments_of_beam_search_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sj.beam_search(LAYER, PARAMS, CARRY, PROMPT, **BEAM | options)


def test_a_carry_without_batch_axes_cannot_follow_hypotheses():
    def step(params, carry, x, flags):
        return carry, jnp.zeros((*x.shape, V))

    layer = dataclasses.replace(at_count(None), step_fn=step, unroll_fn=None)
    with pytest.raises(
        ValueError, match=r"beam_search\(carry\): expected leaves \[\*B, \.\.\.\] with \*B = \[3\]"
    ):
        sj.beam_search(layer, (), jnp.zeros((), jnp.int32), PROMPT[:1], **BEAM)
