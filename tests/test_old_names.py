"""Hold the table of old and new names of the redesign before 0.1.0, and test that no old name is left."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

NAMES = {
    # classes, functions and attributes
    "Sequential": "Scan",
    "Associative": "AssociativeScan",
    "short_convolution": "causal_conv",
    "normalised": "normalized",
    "NormalisedParams": "NormalizedParams",
    "running_normalisation": "running_normalization",
    "randomised_truncated_bptt": "randomized_truncated_bptt",
    "parallelisability": "parallelizability",
    "Parallelisability": "Parallelizability",
    "in_parts": "time_shardable",
    "Lab": "Experiment",
    "Keeper": "CheckpointPolicy",
    "PROFILES": "PRESETS",
    # keyword arguments
    "centre": "center",
    "centred": "centered",
    "discretisation": "discretization",
    "convolution_width": "kernel_size",
    "initialisation": "initialization",
    "normalise": "normalize",
    # the title of a kind of file
    "catalogue": "catalog",
}
"""Names that are matched as whole words."""

TEXTS = {
    r"--profile(?![-\w])": "--preset",
    r"--batch(?![-\w])": "--batch-size",
    r"Settings\(profile": "Settings(preset=...)",
    r"settings\.profile\b": "settings.preset",
    r"\bprofile: str\b": "preset: str",
    r"\bbatch: int\b": "batch_size: int",
    r"\bframes\.Data\b": "results.StudyResults",
    r"from seqjax\.cli\.recipe import load_run": "from seqjax.training import load_run",
}
"""Patterns of names that are ordinary words elsewhere."""

MODULES = {
    "seqjax/convolution": "seqjax/layers/convolution",
    "seqjax/cross_attention": "seqjax/layers/cross_attention",
    "seqjax/definition": "seqjax/values",
    "seqjax/layers": "seqjax/layers/ (recurrent, pointwise, dropout, stateless)",
    "seqjax/normalisation": "seqjax/layers/normalization",
    "seqjax/pooling": "seqjax/layers/pooling",
    "seqjax/cells/antisymmetric": "seqjax/cells/antisymmetric_rnn",
    "seqjax/cells/continuous_time": "seqjax/cells/ (cfc, ltc, common/timed)",
    "seqjax/cells/heads": "seqjax/cells/common/heads",
    "seqjax/cells/initialise": "seqjax/cells/common/initialize",
    "seqjax/cells/labels": "seqjax/cells/common/labels",
    "seqjax/cells/linear": "seqjax/cells/common/linear, seqjax/affine",
    "seqjax/cells/lstm_gates": "seqjax/cells/ (coupled_lstm, peephole_lstm, ur_lstm)",
    "seqjax/cells/lstm_step": "seqjax/cells/ (layer_norm_lstm, projection_lstm)",
    "seqjax/cells/minimal": "seqjax/cells/ (min_gru, min_lstm)",
    "seqjax/cells/one_gate": "seqjax/cells/ (mgu, ugrnn)",
    "seqjax/cells/orthogonal": "seqjax/cells/orthogonal_rnn",
    "seqjax/cells/oscillators": "seqjax/cells/ (cornn, lem)",
    "seqjax/cells/para": "seqjax/cells/ (para_gru, para_lstm)",
    "seqjax/cli/recipe": "seqjax/training/ (recipe, run)",
    "seqjax/combinators/regularise": "seqjax/combinators/ (normalized, variational_dropout, zoneout)",
    "seqjax/combinators/boundary": "seqjax/combinators/ (batch_major, bptt_barrier, frozen, reset_on)",
    "seqjax/combinators/checkpoint": "seqjax/combinators/checkpointed",
    "seqjax/combinators/compose": "seqjax/combinators/ (parallel, repeat, residual, serial)",
    "seqjax/combinators/time": "seqjax/combinators/ (bidirectional, dilated, reverse, strided)",
    "seqjax/gradients/coordinates": "seqjax/ops/vectors",
    "seqjax/gradients/eprop": "seqjax/gradients/local/eprop",
    "seqjax/gradients/gated_trace": "seqjax/gradients/online/trace_gated",
    "seqjax/gradients/inside": "seqjax/gradients/recurrent_layers",
    "seqjax/gradients/kf_rtrl": "seqjax/gradients/online/kf_rtrl",
    "seqjax/gradients/local": "seqjax/gradients/online/layerwise",
    "seqjax/gradients/online": "seqjax/gradients/online/common",
    "seqjax/gradients/randomised": "seqjax/gradients/randomized",
    "seqjax/gradients/reach": "seqjax/gradients/online/sparsity",
    "seqjax/gradients/rflo": "seqjax/gradients/local/rflo",
    "seqjax/gradients/rtrl": "seqjax/gradients/online/rtrl",
    "seqjax/gradients/snap": "seqjax/gradients/online/snap",
    "seqjax/gradients/sparse": "seqjax/gradients/online/sparsity",
    "seqjax/gradients/uoro": "seqjax/gradients/online/uoro",
    "seqjax/gradients/whole_trace": "seqjax/gradients/online/trace_dense",
    "seqjax/methods/associative": "seqjax/methods/associative_scan",
    "seqjax/methods/sequential": "seqjax/methods/scan",
    "seqjax/ops/discretise": "seqjax/ops/discretize",
    "seqjax/ops/gated": "seqjax/ops/gated/batched",
    "seqjax/ops/gated_adjoint": "seqjax/ops/gated/adjoint",
    "seqjax/ops/gated_step": "seqjax/ops/gated/step",
    "seqjax/ops/newton": "seqjax/ops/newton/solve",
    "seqjax/ops/newton_linear": "seqjax/ops/newton/linear",
    "seqjax/ops/shards": "seqjax/ops/time_sharded/shards",
    "seqjax/ops/time_shards": "seqjax/ops/time_sharded/linear",
    "seqjax/probes/adjoint": "seqjax/probes/internals/adjoint",
    "seqjax/probes/calibration": "seqjax/calibration",
    "seqjax/probes/checks": "seqjax/probes/internals/checks",
    "seqjax/probes/directions": "seqjax/probes/internals/directions",
    "seqjax/probes/primitives": "seqjax/probes/internals/primitives",
    "seqjax/probes/rounding": "seqjax/probes/internals/rounding",
    "seqjax/probes/scaled": "seqjax/probes/internals/scaled",
    "seqjax/probes/system": "seqjax/probes/internals/system",
    "seqjax/probes/tangents": "seqjax/probes/internals/tangents",
    "seqjax/probes/vectors": "seqjax/probes/internals/vectors",
    "seqjax/report/blocks": "seqjax/report/content",
    "seqjax/report/catalogue": "seqjax/report/catalog",
    "seqjax/report/compare": "seqjax/compare",
    "seqjax/report/files": "seqjax/files",
    "seqjax/report/frames": "seqjax/report/results",
    "seqjax/report/intervals": "seqjax/statistics, scipy.stats",
    "seqjax/report/lab": "seqjax/study/experiment",
    "seqjax/report/measuring": "seqjax/study/measuring",
    "seqjax/report/models": "seqjax/study/models",
    "seqjax/report/own": "seqjax/user_model",
    "seqjax/report/radar": "removed",
    "seqjax/report/seeds": "seqjax/report/aggregate",
    "seqjax/report/settings": "seqjax/study/ (settings, presets)",
    "seqjax/report/sources": "seqjax/study/sources",
    "seqjax/report/statistics": "seqjax/statistics",
    "seqjax/report/store": "seqjax/study/store",
    "seqjax/report/study": "seqjax/study/runner",
    "seqjax/report/training": "seqjax/study/training",
    "seqjax/training/guard": "seqjax/training/nonfinite",
    "seqjax/training/keeper": "seqjax/training/checkpoint_policy",
    "seqjax/training/shares": "seqjax/training/fsdp",
    "seqjax/training/sums": "seqjax/training/gradient_sums",
    "tests/hlo": "tests/helpers/hlo",
    "tests/killed_run": "tests/helpers/killed_run",
    "tests/matrix_setting": "tests/helpers/matrix_setting",
    "tests/parity": "tests/helpers/parity",
    "tests/ports": "tests/helpers/ports",
    "tests/preempted_run": "tests/helpers/preempted_run",
    "tests/test_seeds": "tests/test_aggregate",
    "tests/test_training_guard": "tests/test_training_nonfinite",
    "tests/worker": "tests/helpers/worker",
}
"""Files, without ``.py``."""

ELSEWHERE = {
    "Sequential": r"(?<!nn\.)(?<!nnx\.)(?<!nnx )(?<!layers\.)(?<!module )(?<!module=)",  # flax, Keras
    "Associative": r"(?! recall)",  # a task
}
"""What is around a word where it is no old name: a look-behind stands before the word, a look-ahead after it."""


OTHER_LIBRARIES = {
    "docs/interop.md", "seqjax/hints.py", "seqjax/interop/flax.py", "seqjax/interop/keras.py",
    "seqjax/interop/nnx_out.py", "tests/test_hints.py", "tests/test_interop.py",
}  # fmt: skip
"""Files about the ``Sequential`` of Flax, Keras and PyTorch."""


def documents() -> dict[str, str]:
    """The text of every file in which an old name could be left, by its path."""
    paths = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    paths += [ROOT / "benchmarks" / "results" / "README.md", *(ROOT / "benchmarks").glob("*.py")]
    for folder, endings in (
        ("seqjax", (".py", ".jinja", ".js", ".css")),
        ("tests", (".py", ".js")),
        ("docs", (".md",)),
        ("notebooks", (".ipynb",)),
    ):
        paths += [path for path in (ROOT / folder).rglob("*") if path.suffix in endings]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(paths)
        if path.exists() and path != Path(__file__)
    }


def word(name: str) -> str:
    """The pattern of an old name as a whole word."""
    around = ELSEWHERE.get(name, "")
    before, after = (around, "") if around.startswith("(?<") else ("", around)
    return rf"{before}\b{name}\b{after}"


def is_name_now(old: str) -> bool:
    """Whether the dotted name of an old module means something else now: a package, or what its package exports."""
    package, _, name = old.replace("/", ".").rpartition(".")
    return (ROOT / old).is_dir() or hasattr(importlib.import_module(package), name)


def module(old: str) -> str:
    """The pattern of an old module: its path, its dotted name, and an import of it from its package."""
    folder, _, name = old.rpartition("/")
    dotted = re.escape(old.replace("/", "."))
    parts = [rf"\b{re.escape(old)}\.py\b"]
    if not is_name_now(old):
        parts += [
            rf"(?<![\w.]){dotted}\b",
            rf"from {re.escape(folder.replace('/', '.'))} import [^\n(]*\b{name}\b",
        ]
    return "|".join(parts)


def needles(old: str) -> tuple[str, ...]:
    """Strings of which the pattern of an old module needs one; they are found faster than the pattern."""
    dotted, package = old.replace("/", "."), old.rpartition("/")[0].replace("/", ".")
    return f"{old}.py", dotted, f"from {package} import"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return documents()


def found(pattern: str, texts: dict[str, str], needs: tuple[str, ...] = ("",)) -> list[str]:
    """The places of a pattern, as file:line; only texts that hold a string of `needs` are searched."""
    compiled = re.compile(pattern)
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in texts.items()
        if any(need in text for need in needs) and not ("Sequential" in needs and name in OTHER_LIBRARIES)
        for match in compiled.finditer(text)
    ]


@pytest.mark.parametrize("kind", ["names", "texts", "modules"])
def test_no_old_name_is_left(kind, texts):
    patterns = {
        "names": [(word(name), (name,)) for name in NAMES],
        "texts": [(pattern, ("",)) for pattern in TEXTS],
        "modules": [(module(old), needles(old)) for old in MODULES],
    }[kind]
    left = [place for pattern, needs in patterns for place in found(pattern, texts, needs)]
    assert not left, "\n".join(left)


def test_an_old_module_is_gone():
    there = [old for old in MODULES if (ROOT / f"{old}.py").exists() or (ROOT / old / "__init__.py").exists()]
    packages = {"seqjax/layers", "seqjax/gradients/local", "seqjax/gradients/online", "seqjax/ops/gated"}
    assert set(there) == packages | {"seqjax/ops/newton"}, "files became these packages; others are left over"


def test_a_new_module_exists():
    for new in MODULES.values():
        if re.fullmatch(r"[\w/]+", new) and new != "removed":
            assert (ROOT / f"{new}.py").exists() or (ROOT / new).is_dir(), new


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("sj.Sequential()", True),
        ("flax.linen.nn.Sequential", False),
        ("Associative recall", False),
        ("method=Associative()", True),
        ("`in_parts`", True),
    ],
)
def test_words_are_matched_as_words(text, old):
    assert any(found(word(name), {"": text}) for name in NAMES) is old


@pytest.mark.parametrize(
    "text", ["seqjax --profile smoke", "Settings(profile='cpu')", "def sample(key, batch: int)", "--batch 4"]
)
def test_texts_are_matched(text):
    assert any(found(pattern, {"": text}) for pattern in TEXTS)


@pytest.mark.parametrize(
    "text", ["import seqjax.report.lab", "from seqjax.report import lab, store", "seqjax/layers.py"]
)
def test_modules_are_matched(text):
    assert any(found(module(old), {"": text}) for old in MODULES)
