"""What a sweep searches: overrides as typed, and the values that each of them may take.

Optuna is an extra, and imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    Transformer,
)

from babygpt_exp.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MANY = 10_000
"""More values than anybody tries one by one."""


@dataclass(frozen=True)
class Dimension:
    """A key whose value is searched. Values are words: what stands behind `key=`."""

    distribution: BaseDistribution
    """Optuna's words for its values."""
    kind: type[float] | type[int] | type[str]
    """Type of Optuna's values; a choice is one of words, so that it may be anything."""

    def word(self, value: Any) -> str:
        """A value of Optuna's as it is typed: a number with six digits, which are enough."""
        if self.kind is not float:
            return str(value)
        low, high = self.distribution.low, self.distribution.high  # type: ignore[attr-defined]
        return repr(min(max(float(f"{value:.6g}"), low), high))

    def words(self) -> list[str] | None:
        """All of them; None if they are too many."""
        from optuna.distributions import CategoricalDistribution

        if isinstance(self.distribution, CategoricalDistribution):
            return [str(choice) for choice in self.distribution.choices]
        low, high, step = (getattr(self.distribution, name) for name in ("low", "high", "step"))
        if step is None or (high - low) / step > MANY:
            return None
        return [self.word(low + n * step) for n in range(round((high - low) / step) + 1)]

    def examples(self) -> list[str]:
        """All choices; of numbers the lowest one, which stands for the others."""
        if self.kind is str:
            return self.words() or []
        return [self.word(self.distribution.low)]  # type: ignore[attr-defined]


class Space:
    """The overrides of a sweep, in the order in which they were typed."""

    def __init__(self, overrides: Sequence[Override]) -> None:
        self.overrides = {override.get_key_element(): override for override in overrides}
        self.dimensions = {
            key: dimension(override)
            for key, override in self.overrides.items()
            if override.is_sweep_override()
        }
        if not self.dimensions:
            raise ConfigError(
                "hydra/sweeper=optuna has nothing to search; give a key several values, as in "
                "'optimizer.lr=tag(log,interval(0.005,0.05))' or arch=modern,llama"
            )

    @property
    def typed(self) -> list[str]:
        """The overrides as they were typed."""
        return [str(override.input_line) for override in self.overrides.values()]

    def examples(self) -> list[list[str]]:
        """Jobs that have every choice among them: what can not be composed is seen at once."""
        choices = {key: dimension.examples() for key, dimension in self.dimensions.items()}
        count = max(map(len, choices.values()))
        return [
            self.job({key: words[n % len(words)] for key, words in choices.items()})
            for n in range(count)
        ]

    def job(self, words: Mapping[str, str]) -> list[str]:
        """The overrides of a job with these values."""
        return [
            f"{key}={words[key]}" if key in words else str(override.input_line)
            for key, override in self.overrides.items()
        ]


def dimension(override: Override) -> Dimension:
    """The values that an override may take; ConfigError if there are none, or none like these."""
    from optuna.distributions import CategoricalDistribution

    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    if others := sorted(tags - {"log"}):
        raise ConfigError(f"{override.input_line}: the only tag is log, not {', '.join(others)}")
    if isinstance(value, IntervalSweep):
        return interval(override, value)
    if isinstance(value, RangeSweep):
        return whole_range(override, value)
    if tags:
        raise ConfigError(f"{override.input_line}: tag log is for interval(...) and range(...)")
    # Not by Hydra's iterator: it shuffles what is to be shuffled, each time in another way.
    words = getattr(value, "list", None)
    choices = override.sweep_string_iterator() if words is None else map(Transformer.str, words)
    distinct = list(dict.fromkeys(choices))
    if not distinct:
        raise ConfigError(f"{override.input_line} has no values")
    return Dimension(CategoricalDistribution(distinct), str)


def interval(override: Override, value: IntervalSweep) -> Dimension:
    """`interval(a,b)`: numbers, and with `int(...)` around it whole ones."""
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high, log = value.start, value.end, "log" in value.tags
    assert low is not None
    assert high is not None
    check_bounds(override, low, high, log)
    if isinstance(low, int) and isinstance(high, int):
        return Dimension(IntDistribution(low, high, log=log), int)
    return Dimension(FloatDistribution(low, high, log=log), float)


def whole_range(override: Override, value: RangeSweep) -> Dimension:
    """`range(a,b,step)`: a and what follows, but not b."""
    from optuna.distributions import FloatDistribution, IntDistribution

    values, step, log = sorted(value.range()), abs(value.step), "log" in value.tags
    if not values:
        raise ConfigError(f"{override.input_line} has no values")
    if log and step != 1:
        raise ConfigError(f"{override.input_line}: a range with tag log has no step")
    check_bounds(override, values[0], values[-1], log)
    if isinstance(values[0], int):
        return Dimension(IntDistribution(values[0], values[-1], log=log, step=int(step)), int)
    return Dimension(FloatDistribution(values[0], values[-1], step=float(step)), float)


def check_bounds(override: Override, low: float, high: float, log: bool) -> None:
    """Refuse an interval that is empty, or that has no logarithm."""
    if low > high:
        raise ConfigError(f"{override.input_line} has no values: {low:g} is above {high:g}")
    if log and low <= 0:
        raise ConfigError(f"{override.input_line}: with tag log all values must be above 0")
