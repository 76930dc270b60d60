"""Cross-validation: train and validation in parts, by patient and class; each part validates once."""

import numpy as np
import pandas as pd

from pneumo import UserError
from pneumo.data import patients
from pneumo.data.settings import DataSettings

_FOLD_STREAM = 2  # so that equal seeds do not give the folds and the validation set the same order


def carve(table: pd.DataFrame, settings: DataSettings, groups: pd.Series) -> pd.DataFrame:
    """`table` with fold `settings.fold` as validation and the others as train. Test does not change.

    Raises UserError if a fold would lack a class.
    """
    table = table.copy()
    fold = assign(table, settings, groups)
    _check(table, fold, settings, groups)
    table.loc[fold >= 0, "split"] = "train"
    table.loc[fold == settings.fold, "split"] = "val"
    return table


def assign(table: pd.DataFrame, settings: DataSettings, groups: pd.Series) -> pd.Series:
    """The fold of each row, 0 to `settings.folds` - 1; -1 for test. The official val split joins train first.

    All images of a group (a patient) are in one fold. Class by class, the largest groups first and equal ones
    in a random order, each goes to the fold with the fewest images of its class, of equal ones to the one
    with the fewest images. The result depends on the groups, their labels, `split_seed` and `folds` alone.
    """
    pool = table["split"] != "test"
    labels = patients.classes(table, pool, groups, len(settings.stratum_names))
    fold_of: dict[str, int] = {}
    images = np.zeros(settings.folds, dtype=np.int64)
    for label in range(len(settings.stratum_names)):
        sizes = groups[pool][labels == label].value_counts().sort_index()
        rng = np.random.default_rng([settings.split_seed, _FOLD_STREAM, label])
        shuffled = sizes.iloc[rng.permutation(len(sizes))]
        of_class = np.zeros(settings.folds, dtype=np.int64)
        for group, size in shuffled.sort_values(ascending=False, kind="stable").items():
            fold = int(np.lexsort((images, of_class))[0])
            fold_of[str(group)] = fold
            of_class[fold] += size
            images[fold] += size
    return groups.where(pool).map(fold_of).fillna(-1).astype(int)


def _check(table: pd.DataFrame, fold: pd.Series, settings: DataSettings, groups: pd.Series) -> None:
    """Refuse folds of which one lacks a class: every job of a cross-validation then says so."""
    if settings.multilabel:
        return  # the strata are rarest findings; `findings.problems` looks at each finding
    pool = fold >= 0
    short = []
    for label, name in enumerate(settings.stratum_names):
        rows = pool & (table["label"] == label)
        if fold[rows].nunique() < settings.folds:
            people = int(groups[rows].nunique())
            short.append(f"{name} has {people} patient{'s' * (people != 1)} outside test")
    if short:
        raise UserError(
            f"data.folds={settings.folds} needs images of every class in every fold: {'; '.join(short)}. "
            "All images of a patient are in one fold. Give fewer folds, or data.val_protocol=patient."
        )
