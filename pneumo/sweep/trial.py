"""A run as a trial of an Optuna search: it reports its scores, and learns whether to go on."""

import math

from hydra.core.hydra_config import HydraConfig

from pneumo.sweep import optuna_study
from pneumo.tracking.settings import SearchSettings
from pneumo.training.signals import Pruned


def report(search: SearchSettings, score: float, epoch: int, last_epoch: int) -> None:
    """Report the score of an epoch, if this run is a trial. Raises Pruned if the trial should end there.

    It does not end after the last epoch: nothing would be saved any more.
    """
    if search.trial is None:
        return
    from optuna.trial import Trial

    assert search.study is not None
    study = optuna_study.load(search.study, HydraConfig.get().sweeper)
    trial = Trial(study, optuna_study.trial_id(study, search.trial))
    stored = optuna_study.stored_trial(study, trial._trial_id)
    if epoch not in stored.intermediate_values and math.isfinite(score):
        trial.report(score, epoch)
    pruned_before = stored.user_attrs.get(optuna_study.PRUNED)
    if pruned_before or (epoch < last_epoch and trial.should_prune()):
        optuna_study.mark_pruned(study, search.trial)
        raise Pruned(f"pruned by the search after epoch {epoch}, at {score:.4f}")


def note_pruned(search: SearchSettings) -> None:
    """Mark the trial that this run is, if any, as pruned."""
    if search.trial is not None:
        assert search.study is not None
        study = optuna_study.load(search.study, HydraConfig.get().sweeper)
        optuna_study.mark_pruned(study, search.trial)
