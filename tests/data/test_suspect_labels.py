"""Confident learning: by its published definition, and on real images with planted mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pneumo import UserError
from pneumo.data import cache, manifest, suspect_labels
from pneumo.data.settings import DataSettings
from pneumo.names import CLASS_NAMES

Make = Callable[..., DataSettings]


def test_the_confident_joint_follows_its_definition() -> None:
    """Thresholds: class 0 (.9 + .5 + .1) / 3 = .5, class 1 (.9 + .7 + .2) / 3 = .6."""
    ill = np.array([0.1, 0.5, 0.9, 0.9, 0.7, 0.2])
    suspect, counted = suspect_labels.confident_joint([0, 0, 0, 1, 1, 1], np.stack([1 - ill, ill], 1))
    assert suspect.tolist() == [False, False, True, False, False, True]
    assert counted.tolist() == [0, 0, 1, 1, 1, 0]


def test_an_image_that_reaches_no_threshold_keeps_its_label() -> None:
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.45, 0.55], [0.4, 0.6]])
    suspect, counted = suspect_labels.confident_joint([0, 0, 1, 1, 0], chances)
    assert not suspect[3] and counted[3] == 1
    assert not suspect[4] and counted[4] == 0  # .6 is below class 1's threshold of .725


def test_three_classes() -> None:
    chances = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.05, 0.05, 0.9]])
    suspect, counted = suspect_labels.confident_joint([0, 1, 2, 1], chances)
    assert suspect.tolist() == [False, False, False, True] and counted[3] == 2


def test_no_image_is_predicted_by_its_own_patient() -> None:
    """Each patient's images are equal, so a model that saw one would know the others."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    features = rng.normal(size=(60, 30))[groups].astype(np.float32)
    labels = rng.integers(0, 2, 60)[groups]
    chances = suspect_labels.out_of_fold(features, labels, groups)
    right = (chances.argmax(1) == labels).mean()
    assert right < 0.7  # by memory it would be 1


def test_planted_mistakes_in_real_labels_come_first(real_root: Path, tmp_path: Path) -> None:
    settings = DataSettings(root=str(real_root), cache_dir=str(tmp_path), image_size=64, num_workers=1)
    described = manifest.build(settings)
    keep = described.table.sample(1500, random_state=0).index
    described.table = described.table.loc[sorted(keep)].reset_index(drop=True)
    data = cache.inspect(described, settings)
    table = data.manifest.table
    wrong = np.random.default_rng(1).choice(len(table), 45, replace=False)
    table.loc[wrong, "label"] = 1 - table.loc[wrong, "label"]
    ranked = suspect_labels.rank(data, CLASS_NAMES)
    planted = ranked.table["path"].isin(table["path"].iloc[wrong]).to_numpy()
    assert planted[:90].mean() > 0.3  # 3 % by chance
    assert planted[ranked.table["suspect"].to_numpy()].sum() >= 20
    first = ranked.table.iloc[0]
    assert (
        first["suspect"] and first["label"] != first["suggested"] and first["p_label"] < first["p_suggested"]
    )
    again = suspect_labels.rank(data, CLASS_NAMES)
    pd.testing.assert_frame_equal(ranked.table, again.table)


def test_too_few_patients_are_refused(kaggle: Path, settings: Make) -> None:
    chosen = settings(root=kaggle)
    data = cache.prepare(manifest.build(chosen), chosen)
    data.manifest.table["patient"] = "one"
    with pytest.raises(UserError, match="at least two patients"):
        suspect_labels.rank(data, CLASS_NAMES)
