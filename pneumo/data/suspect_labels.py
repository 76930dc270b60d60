"""Images whose label may be wrong: confident learning from out-of-fold predictions.

After Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 70 (2021), doi:10.1613/jair.1.12125. A small model predicts each image from
other patients. The threshold of a class is the mean probability that its own images get for it. An image is
suspect if its probability for another class reaches that class's threshold, and it is the largest one that
does (the off-diagonal part of the confident joint). The ranking is by the normalised margin: the probability
of the label minus the largest other one.

The model is a logistic regression on the principal components of the prepared images, shrunk to SIDE pixels:
a ranking for people to look at, not a classifier to trust.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pneumo import UserError
from pneumo.data import patients
from pneumo.data.cache import ImageCache

SIDE = 32
COMPONENTS = 100
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class SuspectLabels:
    """`table` has a row for each image, the most suspect first: path, split, patient, label, suggested,
    p_label, p_suggested and suspect (true or false). Labels are class names."""

    table: pd.DataFrame

    @property
    def count(self) -> int:
        return int(self.table["suspect"].sum())


def rank(data: ImageCache, class_names: tuple[str, ...]) -> SuspectLabels:
    """All images of a data set, ranked. UserError if there are too few patients for the folds."""
    table = data.manifest.table
    labels = table["label"].to_numpy(dtype=np.int64)
    groups = patient_groups(table)
    chances = out_of_fold(_features(data.images[data.rows]), labels, groups)
    suspect, suggested = confident_joint(labels, chances)
    names = np.asarray(class_names)
    every = np.arange(len(labels))
    others = chances.copy()
    others[every, labels] = -1
    ranked = pd.DataFrame(
        {
            "path": table["path"].to_numpy(),
            "split": table["split"].to_numpy(),
            "patient": table["patient"].to_numpy(),
            "label": names[labels],
            "suggested": names[np.where(suspect, suggested, others.argmax(1))],
            "p_label": chances[every, labels].round(6),
            "p_suggested": np.where(suspect, chances[every, suggested], others.max(1)).round(6),
            "suspect": suspect,
        }
    )
    margin = chances[every, labels] - others.max(1)
    order = np.lexsort((ranked["path"].to_numpy(dtype=str), margin, ~suspect))
    return SuspectLabels(table=ranked.iloc[order].reset_index(drop=True))


def confident_joint(labels: ArrayLike, chances: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which images [N] are counted under another class than their label, and the class they count under.

    `chances` [N, K] are out-of-fold probabilities. An image that reaches no class's threshold counts under
    its label.
    """
    given, values = np.asarray(labels), np.asarray(chances, dtype=np.float64)
    thresholds = np.array(
        [values[given == k, k].mean() if (given == k).any() else np.inf for k in range(values.shape[1])]
    )
    reached = np.where(values >= thresholds, values, -1)
    counted = np.where(reached.max(1) >= 0, reached.argmax(1), given)
    return counted != given, counted


def out_of_fold(
    features: NDArray[np.floating], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The probability [N, K] of each class, from a model that saw no image of the same group."""
    folds = patient_folds(labels, groups)
    chances = np.zeros((len(labels), int(labels.max()) + 1))
    with threadpool_limits(1, "blas"):  # the same sums in the same order, whatever the number of cores
        for train, test in folds:
            components = min(COMPONENTS, len(train) - 1, features.shape[1])
            model = make_pipeline(
                StandardScaler(),
                PCA(components, svd_solver="covariance_eigh"),
                StandardScaler(),
                LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced"),
            )
            model.fit(features[train], labels[train])
            chances[np.ix_(test, model[-1].classes_)] = model.predict_proba(features[test])
    return chances


def patient_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Up to FOLDS pairs of row numbers: to learn from, and to predict. A group is never in both.

    Raises UserError if there are too few patients.
    """
    held = [len(np.unique(groups[labels == k])) for k in np.unique(labels)]
    if len(held) < 2 or min(held) < 2:
        raise UserError(
            "each image is predicted from other patients: that needs two classes with at least two patients "
            "each."
        )
    splitter = StratifiedGroupKFold(min(FOLDS, *held), shuffle=True, random_state=0)
    return list(splitter.split(labels, labels, groups))


def patient_groups(table: pd.DataFrame) -> NDArray[np.int64]:
    """A number for each image's patient; an image of an unknown patient has its own."""
    return np.asarray(pd.factorize(patients.keys(table))[0], dtype=np.int64)


def _features(squares: NDArray[np.uint8]) -> NDArray[np.floating]:
    small = [
        np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BOX)) for square in squares
    ]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 255
