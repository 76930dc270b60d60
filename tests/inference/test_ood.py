"""Out-of-distribution warnings: limits that hold for other images, poses that are named, bad references."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import odd_files
from support.images import picture, save

from pneumo import UserError
from pneumo.data import images
from pneumo.inference import model_folder, ood
from pneumo.names import TRAINING_REFERENCE

POSED = {
    "rotated 90 degrees": "turned by 90 degrees counter-clockwise",
    "rotated 270 degrees": "turned by 90 degrees clockwise",
    "upside down": "upside down",
    "inverted": "inverted",
}


@pytest.fixture(scope="module")
def phantoms() -> dict[str, list[np.ndarray]]:
    made = {"train": odd_files.phantoms(300, "train"), "test": odd_files.phantoms(150)}
    made |= {"val": made["train"][200:], "train": made["train"][:200]}
    turned = {
        kind: [odd_files.strange(kind, image, np.random.default_rng(0)) for image in made["test"][:60]]
        for kind in POSED
    }
    return {
        name: [images.preprocess(np.asarray(image), image_size=48) for image in part]
        for name, part in (made | turned).items()
    }


def test_limits_of_validation_hold_for_others_and_poses_are_named(
    phantoms: dict[str, list[np.ndarray]],
) -> None:
    reference = ood.fit(phantoms["train"], phantoms["val"])
    assert len(json.dumps(reference)) < 40_000
    detector = ood.OodDetector(json.loads(json.dumps(reference)))
    squares = phantoms["test"]
    warned = sum(bool(detector.doubts(square).warnings) for square in squares)
    assert warned <= 0.25 * len(squares)  # the phantom's test set is shifted on purpose
    for kind, word in POSED.items():
        found = [" ".join(detector.doubts(square).warnings) for square in phantoms[kind]]
        assert sum(bool(words) for words in found) >= 57, kind
        assert sum(word in words for words in found) >= 40, (kind, Counter(found))
    assert detector.doubts(np.zeros((48, 48), np.uint8)).reasons == [
        "blank: there is hardly anything to see in it"
    ]
    assert "colour in 30%" in detector.doubts(squares[0], 0.3).reasons[0]


@pytest.mark.parametrize("key", ["mean", "components", "variances", "noise", "distance", "poses", "aspect"])
def test_a_damaged_reference_is_refused(phantoms: dict[str, list[np.ndarray]], key: str) -> None:
    reference = ood.fit(phantoms["train"][:30], phantoms["val"][:20])
    for value in (None, [], {}, "x" * 50, [float("nan")], -1, True, [[1]], "A" * 2_000_000, 10**400):
        with pytest.raises(UserError, match=r"reference for unlike images .* is damaged"):
            ood.OodDetector({**reference, key: value})
    with pytest.raises(UserError, match=r"reference for unlike images .* is damaged"):
        ood.OodDetector({})


def test_the_run_keeps_its_reference_and_a_run_without_gets_it_again(
    phantom_run: Path, tmp_path: Path
) -> None:
    kept = json.loads((phantom_run / TRAINING_REFERENCE).read_text())
    model = model_folder.read(phantom_run)
    assert model.ood_reference == kept
    again = ood.fit_again(phantom_run / "config.yaml", model, str(tmp_path / "cache"))
    assert again == kept and kept["features"]["features"] == 512
    other = replace(model, data_digest="0" * 64)
    with pytest.raises(UserError, match="are not those of the run"):
        ood.fit_again(phantom_run / "config.yaml", other, str(tmp_path / "cache"))
    with pytest.raises(UserError, match="does not name a data set"):
        ood.fit_again(tmp_path / "config.yaml", other, str(tmp_path / "cache"))


def test_colour_is_measured_on_the_original(tmp_path: Path) -> None:
    grey = Image.fromarray(picture(0, 1, 300, 400))
    for mode in ("L", "RGB", "CMYK"):
        grey.convert(mode).save(tmp_path / "grey.jpeg")
        found, share = images.read_with_colour(tmp_path / "grey.jpeg")
        assert share == 0 and np.array_equal(found, images.read(tmp_path / "grey.jpeg")), mode
    half = grey.convert("RGB")
    half.paste((200, 30, 30), (0, 0, 200, 300))
    for name, image in (("half.png", half), ("palette.png", half.convert("P")), ("half.jpeg", half)):
        save(image, tmp_path / name)
        assert images.read_with_colour(tmp_path / name)[1] == pytest.approx(0.5, abs=0.1), name
