"""Check a recipe: every setting by itself, and settings that do not go together."""

from seqjax.checks import LARGEST
from seqjax.fields import SettingError, check_fields
from seqjax.training.recipe import APPLICATIONS, GO_WITH, STACKS, USUAL_VOCABULARY, Recipe


def check_recipe(recipe: Recipe) -> None:
    """Check every setting, and the method beside the model.

    Raises:
        SettingError: a ValueError that names the first field whose value cannot be used.
    """
    check_fields(recipe)
    if recipe.length * recipe.batch_size * recipe.eval_batches > LARGEST:
        raise SettingError(
            "{length} times {batch_size} times {eval_batches}: expected less than 2^31 time steps, got {got}. Choose "
            "smaller sizes.",
            got=recipe.length * recipe.batch_size * recipe.eval_batches,
        )
    _check_application(recipe)
    if recipe.model in STACKS and recipe.method != "auto":
        raise SettingError(
            "{method} goes with a cell, got {given!r} for {stack!r}, whose layers choose their methods. Leave it out.",
            given=recipe.method,
            stack=recipe.model,
        )
    if recipe.weight_decay is not None and recipe.optimizer != "adamw":
        raise SettingError(
            "{weight_decay} goes with {optimizer} adamw, got {given!r}. Leave it out.", given=recipe.optimizer
        )
    if recipe.schedule == "constant" and (recipe.decay_steps is not None or recipe.final_rate):
        raise SettingError(
            "{decay_steps} and {final_rate} go with {schedule} cosine or linear, got constant. Leave them out."
        )
    end = recipe.decay_steps or recipe.steps
    if recipe.schedule != "constant" and recipe.warmup_steps >= end:
        raise SettingError(
            "{warmup_steps}: expected fewer than the {end} steps after which {schedule} {kind} ends, got {warmup}.",
            end=end,
            kind=recipe.schedule,
            warmup=recipe.warmup_steps,
        )
    if recipe.dropout and recipe.model in STACKS and recipe.model != "transformer":
        raise SettingError(
            "{dropout} goes with a cell or a transformer, got {stack!r}, which has none. Leave it out.",
            stack=recipe.model,
        )
    if recipe.batch_size % recipe.accumulate:
        raise SettingError(
            "{accumulate}: expected a divisor of {batch_size} {size}, got {parts}.",
            size=recipe.batch_size,
            parts=recipe.accumulate,
        )


def _check_application(recipe: Recipe) -> None:
    """Check the settings that only applications have, and those that they do not have."""
    for name, tasks in GO_WITH.items():
        if getattr(recipe, name) is not None and recipe.task not in tasks:
            raise SettingError(
                f"{{{name}}} goes with {{tasks}}, got the task {{given!r}}. Leave it out.",
                tasks=" or ".join("a text" if task == "text" else f"--as {task}" for task in tasks),
                given=recipe.task,
            )
    sized = recipe.vocabulary or USUAL_VOCABULARY.get(recipe.task)
    if recipe.vocabulary_size is not None and sized in ("bytes", "characters"):
        raise SettingError(
            "{vocabulary_size} goes with {vocabulary} words or subwords, got {given!r}. Leave it out.",
            given=sized,
        )
    if recipe.task not in APPLICATIONS:
        return
    if recipe.data is None:
        raise SettingError("{data}: expected the data for --as {kind}, got none.", kind=recipe.task)
    for name, wrong in (
        ("estimator", recipe.estimator != "full"),
        ("method", recipe.method != "auto"),
        ("until_solved", recipe.until_solved),
        ("model", recipe.model == "transformer"),
        ("precision", recipe.precision == "float64"),
    ):
        if wrong:
            raise SettingError(
                f"{{{name}}} {{given}} goes with a text or a task, got --as {{kind}}. Choose another one, or leave it "
                "out.",
                given=getattr(recipe, name),
                kind=recipe.task,
            )
