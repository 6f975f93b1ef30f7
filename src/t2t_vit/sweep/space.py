"""What a sweep varies: `KEY=V1,V2,...` and `KEY=LOW..HIGH[:log]`, read by the rules of the keys themselves.

Where a value has a comma, semicolons separate the values: `crop_schedule=;96:0.6,128:1.0`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from t2t_vit.errors import UserError
from t2t_vit.report.run_files import ROOT_KEYS
from t2t_vit.settings.names import nearest_key
from t2t_vit.settings.schema import KEYS, SECTIONS
from t2t_vit.settings.values import NUMBER, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

# Keys that say where a run writes and which run it is: the sweep decides them.
OWN_KEYS = frozenset({"resume", "model_postfix", "exclude_epoch_state", *ROOT_KEYS})
# Keys that say what is measured, and by what trials are ranked: it has to be the same in all.
MEASURED_KEYS = frozenset({"best_by", *SECTIONS["Dataset"]} - {"train_num_samples", "class_balance"})
MOST_TRIALS = 10_000
DIGITS = 4  # of a number that is drawn from a range: more say nothing, and nobody likes to copy them
_RANGE = re.compile(rf"(?P<low>{NUMBER.pattern})\.\.(?P<high>{NUMBER.pattern})(?P<log>:log)?", re.ASCII)


@dataclass(frozen=True)
class Dimension:
    """One key and what it is tried with: `values` as a command line has them, or numbers from `low` to `high`."""

    key: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def is_range(self) -> bool:
        return not self.values

    def draw(self, trial: "Trial") -> Any:
        """What optuna chooses for the trial; the same again where it has chosen."""
        if not self.is_range:
            return trial.suggest_categorical(self.key, self.values)
        if self.is_whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def distribution(self) -> "BaseDistribution":
        """What `draw` draws from."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if not self.is_range:
            return CategoricalDistribution(self.values)
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return self.is_range and KEYS[self.key].kind is int

    @property
    def counted(self) -> Sequence[str] | Sequence[int] | None:
        """All that can be drawn, in order; None of a range of numbers that are not whole."""
        if not self.is_range:
            return self.values
        return range(int(self.low), int(self.high) + 1) if self.is_whole else None

    def contains(self, other: "Dimension") -> bool:
        """Whether all that `other` holds is here, too: a sweep over it can continue with this one."""
        if self.key != other.key or self.is_range != other.is_range or self.log != other.log:
            return False
        if not self.is_range:
            return set(other.values) <= set(self.values)
        return self.low <= other.low and other.high <= self.high

    @property
    def ends(self) -> tuple[str, ...]:
        """The values, of a range both ends."""
        if not self.is_range:
            return self.values
        return tuple(self.text(int(end) if self.is_whole else end) for end in (self.low, self.high))

    def text(self, drawn: object) -> str:
        """What was drawn as a command line has it; numbers of a range with few digits, as long as they lie in it."""
        if not isinstance(drawn, float):
            return str(drawn)
        short = f"{drawn:.{DIGITS}g}"
        return short if self.low <= float(short) <= self.high else repr(drawn)

    def drawn(self, value: Value) -> str | int | float | None:
        """`value` of the key as optuna has it; None where the dimension does not hold it."""
        if not self.is_range:
            return next((text for text in self.values if KEYS[self.key].read(text) == value), None)
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return value if inside and isinstance(value, int | float) else None

    def spelt(self) -> str:
        """As it was written."""
        if not self.is_range:
            return f"{self.key}={(';' if any(',' in value for value in self.values) else ',').join(self.values)}"
        return f"{self.key}={self.low:.17g}..{self.high:.17g}{':log' if self.log else ''}"


def read_over(texts: Sequence[str]) -> list[Dimension]:
    """The dimensions of `--over TEXT ...`.

    Raises:
        UserError: what is no KEY=..., an unknown key, a value that it does not take, a key or a value twice.
    """
    found: dict[str, Dimension] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise UserError(f"--over takes KEY=V1,V2,... or KEY=LOW..HIGH[:log]; not '{text}'")
        if key not in KEYS:
            raise UserError(f"--over: unknown key '{key}'; did you mean '{nearest_key(key, KEYS)}'?")
        if key in OWN_KEYS:
            raise UserError(
                f"--over {key}: the sweep decides it, since each trial has folders of its own; leave it out"
            )
        if key in MEASURED_KEYS:
            raise UserError(
                f"--over {key}: it decides what is measured or ranked, so trials with different values could not be "
                f"compared; give one value for all trials, --{key} VALUE"
            )
        if key in found:
            raise UserError(f"--over {key} is given twice; write all its values in one option, {key}=V1,V2")
        found[key] = _dimension(key, values)
    return [*found.values()]


def _dimension(key: str, text: str) -> Dimension:
    is_number = KEYS[key].kind in (int, float)
    if is_number and ".." in text:
        return _range(key, text)
    values = tuple(piece.strip() for piece in text.split(";" if ";" in text else ","))
    read = [_read(key, value) for value in values]
    for number, value in enumerate(read):
        if value in read[:number]:
            raise UserError(f"--over {key}: the value {values[number]} is given twice; remove one")
    return Dimension(key, values)


def _range(key: str, text: str) -> Dimension:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UserError(f"--over {key} takes a range as LOW..HIGH or LOW..HIGH:log; not '{text}'")
    low, high = (float(str(_read(key, match[name]))) for name in ("low", "high"))
    log = match["log"] is not None
    if low >= high:
        raise UserError(f"--over {key}: a range goes from the lower to the higher number; not '{text}'")
    if log and low < (1 if KEYS[key].kind is int else math.ulp(0)):
        raise UserError(
            f"--over {key}: a logarithmic range must begin above 0 (whole numbers: at 1 or more), not at {match['low']}"
        )
    return Dimension(key, (), low, high, log)


def _read(key: str, text: str) -> Value:
    try:
        return KEYS[key].read(text)
    except ValueError as error:
        raise UserError(f"--over {key} {error}") from None


def combination(dimensions: Sequence[Dimension], number: int) -> dict[str, str | int]:
    """Combination `number` of what can be counted, from 0; the last key changes fastest."""
    found: dict[str, str | int] = {}
    for each in reversed(dimensions):
        values = each.counted
        assert values is not None
        number, place = divmod(number, len(values))
        found[each.key] = values[place]
    return dict(reversed(found.items()))


def grid_size(dimensions: Sequence[Dimension]) -> int | None:
    """How many combinations there are; None where one is a range of numbers that are not whole."""
    counts = [None if (values := each.counted) is None else len(values) for each in dimensions]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def check_combinations(dimensions: Sequence[Dimension], check: Callable[[Mapping[str, Value]], object]) -> None:
    """Call `check` with the values of each combination, of ranges with both ends, up to `MOST_TRIALS` of them.

    Raises:
        UserError: what `check` has to say, and of which combination.
    """
    ends = (each.ends for each in dimensions)
    for number, texts in enumerate(product(*ends)):
        if number >= MOST_TRIALS:
            return
        values = {each.key: KEYS[each.key].read(text) for each, text in zip(dimensions, texts, strict=True)}
        try:
            check(values)
        except UserError as error:
            named = ", ".join(f"{each.key} {text}" for each, text in zip(dimensions, texts, strict=True))
            raise UserError(f"with {named}: {error}") from error
