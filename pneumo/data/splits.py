"""Which images train, validate and test, where the data set does not say it: by patient, class by class."""

import numpy as np
import pandas as pd

from pneumo.data import folds, patients
from pneumo.data.settings import DataSettings

TEST_FRACTION = 0.2  # where data.split.test_fraction is null and the set has no split
_TEST_STREAM = 1  # so that equal seeds do not give the test set and the validation set the same order


def split(table: pd.DataFrame, settings: DataSettings, groups: pd.Series, *, make_test: bool) -> pd.DataFrame:
    """`table` with the splits that `settings` ask for. `groups` names the patient of each row."""
    if make_test:
        table = carve_test(table, settings, groups)
    if settings.val_protocol == "fold":
        return folds.carve(table, settings, groups)
    return carve_validation(table, settings, groups) if settings.val_protocol == "patient" else table


def carve_validation(table: pd.DataFrame, settings: DataSettings, groups: pd.Series) -> pd.DataFrame:
    """Take a class-stratified validation split out of train. The official val split joins train first.

    All images of a group (a patient) stay in one split. A group with images of both classes counts as
    PNEUMONIA; of more than two classes, as the rarest that it has. The result depends only on the groups,
    their labels and `split_seed`, not on the file order.
    """
    table = table.copy()
    pool = table["split"] != "test"
    table.loc[pool, "split"] = "train"
    chosen = _chosen(table, pool, groups, settings, settings.val_fraction, [settings.split_seed], keep=1)
    table.loc[chosen, "split"] = "val"
    return table


def carve_test(table: pd.DataFrame, settings: DataSettings, groups: pd.Series) -> pd.DataFrame:
    """Take a class-stratified test set out of all images, or out of train beside an official validation.

    Like `carve_validation`, with data.split.test_fraction and data.split.seed. Train and validation keep a
    group of each class where there are three.
    """
    table = table.copy()
    pool = pd.Series(True, index=table.index)
    if settings.val_protocol == "official":
        pool = table["split"] != "val"
    table.loc[pool, "split"] = "train"
    seeds = [settings.split.seed, _TEST_STREAM]
    chosen = _chosen(table, pool, groups, settings, test_fraction(settings), seeds, keep=2)
    table.loc[chosen, "split"] = "test"
    return table


def test_fraction(settings: DataSettings) -> float:
    """The share of each class that a made test set takes."""
    asked = settings.split.test_fraction
    return TEST_FRACTION if asked is None else asked


def _chosen(
    table: pd.DataFrame,
    pool: pd.Series,
    groups: pd.Series,
    settings: DataSettings,
    fraction: float,
    seeds: list[int],
    keep: int,
) -> pd.Series:
    """True for the rows of the groups that are taken out of `pool`; `keep` groups of each class stay."""
    chosen = pd.Series(False, index=table.index)
    labels = patients.classes(table, pool, groups, len(settings.stratum_names))
    for label in range(len(settings.stratum_names)):
        sizes = groups[pool][labels == label].value_counts().sort_index()
        order = np.random.default_rng([*seeds, label]).permutation(len(sizes))
        taken = sizes.iloc[order]
        wanted = fraction * int(sizes.sum())
        # Take patients while that brings the number of images closer to the wanted number.
        before = taken.cumsum() - taken
        count = int(((before + taken / 2) <= wanted).sum())
        count = max(min(max(count, 1), len(taken) - keep), 0)  # with enough patients, each split gets one
        chosen |= pool & groups.isin(taken.index[:count])
    return chosen


def joined_by_copies(
    table: pd.DataFrame, hashes: dict[str, str], pool: pd.Series
) -> tuple[pd.Series, int] | None:
    """Groups in which patients of `pool` who share identical bytes are one, and how many images they share.

    `hashes` gives the content's hash by path. None if no two patients share bytes.
    """
    if len(set(hashes.values())) == len(hashes):
        return None
    groups = patients.keys(table)
    contents = table["path"].map(hashes)
    shared = groups[pool].groupby(contents).transform("nunique") > 1
    if not shared.any():
        return None
    leaders: dict[str, str] = {}

    def leader(key: str) -> str:
        while (above := leaders.get(key, key)) != key:
            leaders[key] = leaders.get(above, above)  # path halving, for the next lookup
            key = above
        return key

    first: dict[str, str] = {}
    for key, content in zip(groups[pool][shared], contents[pool][shared], strict=True):
        one, other = leader(key), leader(first.setdefault(content, key))
        leaders[max(one, other)] = min(one, other)  # the smallest key leads, so the order does not matter
    joined = groups.map({key: leader(key) for key in groups[pool][shared]}).fillna(groups)
    return joined, int(shared.sum())
