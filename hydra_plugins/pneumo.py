"""This project's plugins. Hydra takes plugins from this namespace only, which several packages share."""

from pneumo.sweep import launchers, optuna_sweeper


class OptunaSweeper(optuna_sweeper.OptunaSweeper):
    """hydra/sweeper=pneumo_optuna"""


class RayLauncher(launchers.RayLauncher):
    """hydra/launcher=ray"""


class SlurmLauncher(launchers.SlurmLauncher):
    """hydra/launcher=submitit_slurm"""
