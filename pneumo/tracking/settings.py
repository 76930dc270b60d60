"""Settings of the tracking, and of a run's place in a search."""

from dataclasses import dataclass

from pneumo import UserError


@dataclass(kw_only=True)
class TrackingSettings:
    uri: str | None = None
    experiment: str = "pneumo"
    enabled: bool = True
    flush_s: float = 60.0  # how long the end of a run waits for the tracking server

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise UserError(
                "tracking.experiment is empty: give a name, for example tracking.experiment=pneumo."
            )
        if self.flush_s < 0:
            raise UserError(f"tracking.flush_s={self.flush_s} must not be negative.")


@dataclass(kw_only=True)
class SearchSettings:
    """Which trial of which study a run is; set by the sweeper (hydra/sweeper=pneumo_optuna)."""

    study: str | None = None
    trial: int | None = None
