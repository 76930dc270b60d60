import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumo import UserError
from pneumo.data import phantom
from pneumo.data.settings import PhantomSettings

SETTINGS = PhantomSettings()
TABLE = phantom.table(SETTINGS)


Drawn = tuple[pd.DataFrame, list[NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def first_images() -> Drawn:
    """The first image of 280 train patients and of all 120 test patients of the default set."""
    rows = TABLE.drop_duplicates("patient").iloc[-400:].reset_index(drop=True)
    return rows, [phantom.render(path, SETTINGS) for path in rows.path]


def test_table_has_the_columns_and_unique_paths() -> None:
    assert list(TABLE.columns) == ["path", "label", "patient", "subtype", "split"]
    assert TABLE.path.is_unique
    assert TABLE.equals(phantom.table(PhantomSettings()))
    assert not TABLE.equals(phantom.table(PhantomSettings(seed=1)))


def test_default_sizes() -> None:
    assert dict(TABLE.groupby("split").patient.nunique()) == {"train": 400, "test": 120}
    assert 950 <= (TABLE.split == "train").sum() <= 1050
    assert 280 <= (TABLE.split == "test").sum() <= 320


def test_each_patient_has_one_split_one_label_and_up_to_four_images() -> None:
    patients = TABLE.groupby("patient")
    assert (patients.split.nunique() == 1).all()
    assert (patients.subtype.nunique() == 1).all()
    assert set(patients.size()) == {1, 2, 3, 4}


@pytest.mark.parametrize("seed", [0, 1])
def test_class_balance_and_subtypes(seed: int) -> None:
    rows = phantom.table(PhantomSettings(seed=seed))
    share = rows.groupby("split").label.mean()
    assert share["train"] == pytest.approx(2.5 / 3.5, abs=0.02)
    assert share["test"] == pytest.approx(5 / 8, abs=0.02)
    assert ((rows.subtype != "normal") == (rows.label == 1)).all()
    assert (rows.path.str.contains("/PNEUMONIA/") == (rows.label == 1)).all()
    for split in ("train", "test"):
        assert set(rows[rows.split == split].subtype) == {"normal", "bacteria", "virus"}


def test_the_smallest_set_has_every_subtype_in_both_splits() -> None:
    rows = phantom.table(PhantomSettings(train_patients=10, test_patients=8))
    assert (rows.groupby("split").subtype.nunique() == 3).all()


@pytest.mark.parametrize("wrong", [{"train_patients": 9}, {"test_patients": 0}, {"seed": -1}])
def test_bad_settings_name_the_value_and_the_mend(wrong: dict[str, int]) -> None:
    (key, value) = next(iter(wrong.items()))
    with pytest.raises(UserError, match=rf"data\.phantom\.{key}={value} .*(give|default)"):
        phantom.table(PhantomSettings(**wrong))


@pytest.mark.parametrize(
    "path",
    [
        "train/NORMAL/x.png",
        "train/NORMAL/train0001_virus_0.png",
        "train/NORMAL/test0001_normal_0.png",
        "../etc",
    ],
)
def test_an_unknown_path_is_a_user_error(path: str) -> None:
    with pytest.raises(UserError, match=r"phantom\.table"):
        phantom.render(path, SETTINGS)


def test_images_are_grey_uint8_of_varied_size(first_images: Drawn) -> None:
    _, images = first_images
    assert all(image.dtype == np.uint8 and image.ndim == 2 for image in images)
    heights, widths = zip(*(image.shape for image in images), strict=True)
    assert min(heights) >= 200 and max(heights) <= 280 and len(set(heights)) > 10
    assert min(widths) >= 250 and max(widths) <= 330 and len(set(widths)) > 10
    bordered = np.mean([not image[0].any() or not image[:, 0].any() for image in images])
    assert 0.2 < bordered < 0.5


def test_same_pixels_in_a_fresh_process_and_another_order() -> None:
    paths = list(TABLE.path[[0, 500, 1200]])
    here = [hashlib.sha256(phantom.render(path, SETTINGS).tobytes()).hexdigest() for path in reversed(paths)]
    code = (
        "import hashlib, sys\nfrom pneumo.data import phantom, settings\n"
        "for path in sys.argv[1:]:\n    image = phantom.render(path, settings.PhantomSettings())\n"
        "    print(hashlib.sha256(image.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == here[::-1]


def test_only_the_seed_and_the_path_decide_the_pixels() -> None:
    path = TABLE.path[0]
    image = phantom.render(path, SETTINGS)
    assert np.array_equal(image, phantom.render(path, PhantomSettings(train_patients=10, test_patients=8)))
    assert not np.array_equal(image, phantom.render(path, PhantomSettings(seed=1)))


def test_images_of_one_patient_differ_but_share_the_anatomy() -> None:
    """Two views of one patient correlate more than views of two patients do."""
    counts = TABLE.groupby("patient").size()
    patients = list(counts[counts >= 2].index[:30])
    views = np.stack([[_small(p) for p in TABLE[TABLE.patient == one].path[:2]] for one in patients])
    flat = views.reshape(len(patients), 2, -1)
    assert (flat[:, 0] != flat[:, 1]).any(axis=1).all()
    among = np.corrcoef(flat[:, 0], flat[:, 1])[: len(patients), len(patients) :]
    apart = among[~np.eye(len(patients), dtype=bool)]
    assert np.diag(among).mean() > apart.mean() + 0.02


def test_the_test_split_is_shifted(first_images: Drawn) -> None:
    rows, images = first_images
    middle = [image[60:-60, 60:-60].astype(float) for image in images]
    grain = [np.median(np.abs(np.diff(image, 2, axis=1))) for image in middle]
    stats = pd.DataFrame(
        {"mean": [i.mean() for i in middle], "std": [i.std() for i in middle], "grain": grain}
    )
    of = stats.groupby(rows.split)
    gap = (of.mean().loc["test"] - of.mean().loc["train"]) / of.std().loc["train"]
    assert gap["mean"] > 0.5 and gap["std"] < -0.5 and gap["grain"] > 0.5


def test_a_linear_model_of_the_pixels_does_not_solve_it(first_images: Drawn) -> None:
    """The majority rate of the test split is 0.625; the model must fit train, or the bound says nothing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, images = first_images
    small = [np.asarray(ImageOps.equalize(Image.fromarray(i)).resize((32, 32))) for i in images]
    x, y, train = np.stack(small).reshape(len(rows), -1) / 255, rows.label, rows.split == "train"
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(x[train], y[train])
    assert model.score(x[train], y[train]) > 0.80  # majority 0.72
    assert model.score(x[~train], y[~train]) < 0.72


def test_digest_changes_with_the_settings_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = phantom.digest(SETTINGS)
    assert len(digest) == 64 and digest == phantom.digest(PhantomSettings())
    assert digest != phantom.digest(PhantomSettings(seed=1))
    assert digest != phantom.digest(PhantomSettings(test_patients=121))
    monkeypatch.setattr(phantom, "VERSION", phantom.VERSION + 1)
    assert digest != phantom.digest(SETTINGS)


def _small(path: str) -> NDArray[np.float64]:
    picture = ImageOps.equalize(Image.fromarray(phantom.render(path, SETTINGS)))
    return np.asarray(picture.resize((24, 24)), dtype=float)
