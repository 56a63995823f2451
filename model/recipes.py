"""The recipes: how a network is trained, each number with its reason.

A recipe is plain JSON, so that it can be part of a config file and of a cache key.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import PermanentError

Form = Literal["drawn", "upright", "wide"]  # how a network sees digits: see model.forms


class Recipe(BaseModel):
    """What to train and how. Two equal recipes, seeds and inputs give equal weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    network: str  # a function of model.networks
    epochs: int = Field(ge=1)  # at most: training stops early at target_accuracy
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)  # of Adam; with one-cycle, its peak
    schedule: Literal["constant", "one-cycle"]  # one-cycle: linearly up, then down to zero
    betas: tuple[float, float]  # of Adam: decay rates of the mean gradient and mean square
    label_smoothing: float = Field(ge=0, lt=1)  # share of the target spread over all ten classes
    easy_share: float = Field(gt=0, le=1)  # of the easy rows, per epoch: see model.selection
    augmentation: bool  # images change at random in every epoch: see model.augmentation
    precision: Literal["float32", "bfloat16"]  # of the layers; bfloat16 where the CPU has it
    lanes: int = Field(ge=1)  # equal parts of a batch that are computed in parallel
    # Training stops after an epoch that reaches this on the validation rows; with 1, it never does.
    target_accuracy: float = Field(gt=0, le=1)
    forms: tuple[Form, ...] = Field(min_length=1)  # in which members see digits, in turn
    views: tuple[float, ...] = Field(min_length=1)  # test-time augmentation: the mean is predicted
    members: int = Field(ge=1)  # networks trained on different folds; they are averaged
    validation_fraction: float = Field(gt=0, lt=1)  # of rows held out, stratified by class

    def form(self, member: int) -> Form:
        """The form in which that member sees digits."""
        return self.forms[member % len(self.forms)]

    def of_a_member(self) -> "Recipe":
        """What one member's training depends on: everything but how many others there are."""
        return self.model_copy(update={"members": 1})


CLASSIC = Recipe(
    name="classic",
    network="reference",
    epochs=10,  # the reference's; accuracy gains little after it
    batch_size=50,  # the reference's
    learning_rate=0.001,  # Keras' default for Adam
    schedule="constant",
    betas=(0.9, 0.999),
    label_smoothing=0,
    easy_share=1,
    augmentation=False,
    precision="float32",
    lanes=2,
    target_accuracy=0.995,  # above what this network reaches on unseen digits: seldom stops early
    forms=("drawn",),
    views=(0,),
    members=1,  # one network is the reference
    validation_fraction=0.1,  # 4,200 of 42,000 rows: a 95% interval of 0.3 points at 99%
)

FAST = Recipe(
    name="fast",
    network="small",
    epochs=2,
    batch_size=192,  # small, to make up for the steps that the second epoch leaves out
    learning_rate=0.011,  # 0.0125 gave the same
    schedule="one-cycle",
    betas=(0.7, 0.9),  # few steps call for shorter averages: 0.1 points over (0.9, 0.95)
    label_smoothing=0.1,  # 0.2 points over none, at no cost
    easy_share=0.5,  # three fifths of all rows, with the hard ones: a sixth less time in float32
    augmentation=False,
    precision="bfloat16",
    lanes=2,
    target_accuracy=1,  # the schedule needs all of its epochs
    forms=("drawn",),
    views=(0,),
    members=1,
    validation_fraction=0.1,
)

BEST = Recipe(
    name="best",
    network="deep",
    epochs=16,  # the time goes into more members, each of which then holds out fewer rows
    batch_size=128,
    learning_rate=0.004,
    schedule="one-cycle",
    betas=(0.9, 0.99),
    label_smoothing=0.05,
    easy_share=0.375,  # half of all rows, with the hard ones: as accurate, in 0.6 of the time
    augmentation=True,
    precision="bfloat16",
    lanes=1,  # members in parallel, each in a process of one thread, give more throughput
    target_accuracy=1,  # the schedule needs all of its epochs
    forms=("upright", "drawn", "wide"),  # together they err less than members of one form
    views=(0, 0.5, -0.5),  # shares of training's ranges: unwarped, and warped in opposite ways
    members=12,  # four more would gain a hundredth of the cross-entropy, for a third more time
    validation_fraction=1 / 12,  # each row is held out by one of the twelve
)

RECIPES = {recipe.name: recipe for recipe in (CLASSIC, FAST, BEST)}


def recipe_for(name: str, **fields: Any) -> Recipe:
    """The named recipe, with the fields given here (not None) in place of its own.

    Raises PermanentError for an unknown name or field and for an invalid value.
    """
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise PermanentError(f"There is no recipe {name!r}.", f"Choose one of {known}.")
    given = {field: value for field, value in fields.items() if value is not None}
    if "batch_size" in given:  # each lane needs at least one image
        given["lanes"] = min(RECIPES[name].lanes, max(1, given["batch_size"]))
    if RECIPES[name].network == "deep" and given.get("batch_size") == 1:
        # Its last feature map is one pixel: normalised over one image, each value would be zero.
        raise PermanentError(
            f"The recipe {name} cannot learn from one image at a time: batch normalisation "
            "needs several.",
            "Use a batch size of 2 or more.",
        )
    try:
        return Recipe.model_validate(RECIPES[name].model_dump() | given)
    except ValidationError as error:
        faults = [f"{e['loc'][0]} is {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise PermanentError(
            f"The recipe {name} cannot be changed like this: {'; '.join(faults)}.",
            "Correct the value, or leave it out to use the recipe's own.",
        ) from None
