"""The space of an Optuna search, read from overrides in Hydra's sweep syntax."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


class Dimension:
    """One key that the search varies."""

    def __init__(self, override: Override) -> None:
        from optuna import distributions

        self.key, self.text = override.get_key_element(), str(override.input_line)
        sweep: Any = override.value()
        log = "log" in getattr(sweep, "tags", ())
        self.distribution: BaseDistribution
        if isinstance(sweep, IntervalSweep):
            low: Any = sweep.start
            high: Any = sweep.end
            whole = isinstance(low, int) and isinstance(high, int)  # as written int(interval(1, 8))
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            self.distribution = kind(low, high, log=log)
        elif isinstance(sweep, RangeSweep) and len(values := list(sweep.range())) > 1:
            whole = all(isinstance(value, int) for value in values)
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            self.distribution = kind(min(values), max(values), step=abs(values[1] - values[0]))
        else:
            self.distribution = distributions.CategoricalDistribution(list(override.sweep_string_iterator()))

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last value."""
        distribution: Any = self.distribution
        values = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
        return values[0], values[-1]

    def suggest(self, trial: "Trial") -> str:
        """The trial's value as an override; a value that the trial has already stays."""
        value = trial._suggest(self.key, self.distribution)
        return f"{self.key}={value}"


def parse(params: dict[str, Any], arguments: Sequence[str], loader: Any) -> tuple[list[Dimension], list[str]]:
    """The dimensions of the space, and the overrides that go to every job.

    `params` are those of hydra.sweeper, `arguments` those of the command line, which win.
    """
    lines = [f"{key}={value}" for key, value in params.items()] + [*arguments]
    spaces: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(lines)
    for line, override in zip(lines, overrides, strict=True):
        key = override.get_key_element()
        spaces.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = line
            continue
        try:
            spaces[key] = Dimension(override)
        except ValueError as error:
            raise HydraException(f"{line}: {error}") from None
    if not spaces:
        raise HydraException(
            "the search has no space: give hydra.sweeper.params in a sweep file, or for example "
            "'optim.lr=tag(log, interval(1e-4, 3e-3))' 'model.dropout=choice(0.0, 0.3)'"
        )
    return [*spaces.values()], [*fixed.values()]
