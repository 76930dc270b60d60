"""What Hydra finds of ours: it takes plugins from this namespace only, which several packages share."""

from pneumo.sweep import launchers
from pneumo.sweep import optuna_sweeper as search


class OptunaSweeper(search.OptunaSweeper):
    """hydra/sweeper=pneumo_optuna"""


class RayLauncher(launchers.RayLauncher):
    """hydra/launcher=ray"""


class SlurmLauncher(launchers.SlurmLauncher):
    """hydra/launcher=submitit_slurm"""
