"""Predictions of files: the pixels of training, the same answer in any batch, odd and hostile files."""

import os
import resource
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import odd_files
from support.model_runs import FINDINGS, THREE, image_folder

from pneumo import UserError
from pneumo.data import cache, images, manifest, patients
from pneumo.data.settings import DataSettings
from pneumo.inference import inputs, model_folder, ood
from pneumo.inference.predictor import Prediction, Predictor
from pneumo.inference.schema import PreprocessArguments


@pytest.fixture(scope="module")
def predictor(made_models: dict[str, Path]) -> Predictor:
    return Predictor(model_folder.read(made_models["resnet18"]))


def test_neither_batches_nor_threads_change_a_row(made_models: dict[str, Path], tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 9)
    (folder / "4b.png").write_bytes(b"no image")
    model, files = model_folder.read(made_models["resnet18"]), inputs.find(folder).files

    def predicted(num_workers: int, batch_size: int) -> list[Prediction]:
        predictor = Predictor(model, num_workers=num_workers)
        return [row for batch in predictor.predict(files, batch_size=batch_size) for row, _ in batch]

    alone = predicted(1, 64)
    assert [Path(row.path).name for row in alone if row.error] == ["4b.png"] and len(alone) == 10
    for rows in (predicted(3, 1), predicted(2, 4)):
        assert [(row.path, row.error, row.decision) for row in rows] == [
            (row.path, row.error, row.decision) for row in alone
        ]
        assert [row.probability for row in rows if not row.error] == pytest.approx(
            [row.probability for row in alone if not row.error], abs=1e-6
        )


def by_rule(predictor: Predictor, rule: int, white: int | None = None) -> Predictor:
    """The same model as if trained under a pixel rule."""
    preprocess: PreprocessArguments = {**predictor.bundle.preprocess}
    if rule > 1:  # a model of version 0.1 does not name its rule
        preprocess["pixels"] = rule
    return Predictor(replace(predictor.bundle, preprocess=preprocess, white=white))


@pytest.mark.parametrize("rule", [1, 2])
def test_the_pixels_are_those_of_training(
    rule: int, native: list[Path], predictor: Predictor, tmp_path: Path
) -> None:
    """Every original: what the prediction prepares is byte for byte what the training's cache holds."""
    predictor = by_rule(predictor, rule)
    root = native[0].parents[1]
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for file in native:
        patient, _ = patients.parse_name(file.name) or ("", "")
        line = f"{file.relative_to(root)},{int(file.parent.name == 'PNEUMONIA')}\n"
        parts["test" if int(patient.rpartition("-")[2]) % 2 else "train"].append(line)
    for split, part in parts.items():
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "".join(part))
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)  # no path of a set may lead out of its folder
    size = predictor.bundle.image_size
    settings = DataSettings(
        name="csv",
        root=str(tmp_path),
        image_size=size,
        cache_dir=str(tmp_path / "cache"),
        num_workers=2,
        pixels=rule,
    )
    data = cache.prepare(manifest.build(settings), settings)
    trained = dict(zip(data.manifest.table["path"], data.images[data.rows], strict=True))
    prepared = predictor.predict([str(file) for file in native])
    seen = {str(Path(row.path).relative_to(root)): image for batch in prepared for row, image in batch}
    assert len(seen) == len(native) == len(trained)
    for path, image in seen.items():
        assert image is not None and image.square.tobytes() == trained[path].tobytes(), path


@pytest.mark.parametrize("rule", [1, 2])
def test_every_format_is_prepared_as_in_training(predictor: Predictor, tmp_path: Path, rule: int) -> None:
    """TIFF, BMP, WebP, PNG and DICOM, with the white level that training found."""
    pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'pneumo[dicom]'")
    odd_files.in_every_format(tmp_path / "set")
    settings = DataSettings(
        root=str(tmp_path / "set"),
        image_size=predictor.bundle.image_size,
        cache_dir=str(tmp_path / "cache"),
        num_workers=1,
        pixels=rule,
    )
    data = cache.prepare(manifest.build(settings), settings)
    assert data.white == (None if rule == 1 else 4095)
    same = by_rule(predictor, rule, white=data.white)
    paths = data.manifest.table["path"].tolist()
    assert {Path(path).suffix for path in paths} >= {".dcm", ".tif", ".TIFF", ".bmp", ".webp", ".png"}
    for path, row in zip(paths, data.rows, strict=True):
        prepared = same.prepare(tmp_path / "set" / path)
        assert prepared.square.tobytes() == data.images[row].tobytes(), path


def test_a_film_is_scaled_as_in_training_and_a_brighter_one_gets_a_warning(
    predictor: Predictor, tmp_path: Path
) -> None:
    """Training knew 16-bit films with values up to 4,095, which did not declare their range."""
    size = predictor.bundle.image_size
    values = np.linspace(0, 3000, size * size).round().astype(np.uint16).reshape(size, size)
    for name, film in (("like.png", values), ("brighter.png", values + 2000)):
        Image.fromarray(film).save(tmp_path / name)
    newest = by_rule(predictor, 2, white=4095)
    paths = [str(tmp_path / name) for name in ("like.png", "brighter.png")]
    (like, brighter) = (newest.prepare(path) for path in paths)
    expected = images.read(paths[0], pixels=2, white=4095)
    assert np.array_equal(like.square, images.preprocess(expected, **newest.bundle.preprocess))
    warned = [
        [w for w in row.warnings if "brighter" in w] for row in newest.predictions(paths, [like, brighter])
    ]
    assert warned == [[], ["brighter than any training film: values up to 5000, white is 4095"]]
    old = by_rule(predictor, 1)  # reads as version 0.1 did, and has nothing to compare with
    assert np.array_equal(
        old.prepare(paths[1]).square, images.preprocess(images.read(paths[1]), **old.bundle.preprocess)
    )
    assert old.prepare(paths[1]).largest is None


def test_two_hundred_odd_files(made_models: dict[str, Path], tmp_path: Path) -> None:
    kinds = odd_files.make(tmp_path)
    assert len(kinds) >= 200
    model = model_folder.read(made_models["resnet18"])
    train, val = odd_files.phantoms(200, "train"), odd_files.phantoms(60)
    squares = [
        [images.preprocess(np.asarray(image), **model.preprocess) for image in part] for part in (train, val)
    ]
    model.ood_reference = ood.fit(*squares)
    found = inputs.find(tmp_path / "in")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    by_path = {row.path: row for batch in Predictor(model).predict(found.files) for row, _ in batch}
    assert time.process_time() - started < 60  # 8 s on an idle machine
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 1500  # MB
    assert {os.path.relpath(path, tmp_path / "in") for path in [*by_path, *found.outside]} == set(kinds)
    assert not (tmp_path / odd_files.MARK).exists() and not Path(odd_files.MARK).exists()
    outcomes: dict[str, Counter] = {}
    for path, row in by_path.items():
        assert bool(row.error) is (row.probability is None)
        assert row.error or 0 <= float(str(row.probability)) <= 1
        assert "\n" not in row.error and "SECRET" not in row.error + "".join(row.warnings)
        outcome = odd_files.REFUSED if row.error else odd_files.WARNED if row.warnings else odd_files.READ
        outcomes.setdefault(kinds[os.path.relpath(path, tmp_path / "in")], Counter())[outcome] += 1
    for kind in ("X-ray, JPEG", "X-ray, PNG", "X-ray, odd form or size", "X-ray with EXIF orientation",
                 "wrong suffix", "odd file name", "with something after it",
                 "X-ray, TIFF, BMP or WebP"):  # fmt: skip
        assert not outcomes[kind][odd_files.REFUSED], kind
    for kind in ("cut short", "empty", "bomb", "another kind of file", "DICOM, of another kind or damaged"):
        assert set(outcomes[kind]) == {odd_files.REFUSED}, kind
    for kind in ("colour photo", "noise", "blank", "checkerboard", "rotated 90 degrees", "upside down"):
        assert set(outcomes[f"unlike: {kind}"]) == {odd_files.WARNED}, kind
    assert outcomes["X-ray, PNG"][odd_files.READ] >= 5 and outcomes["odd file name"][odd_files.READ] == 18
    assert len(found.outside) == 3 and all(Path(path).is_symlink() for path in found.outside)


def test_a_row_of_three_classes_has_each_class_and_its_threshold(made_of_three: Path, tmp_path: Path) -> None:
    bundle = model_folder.read(made_of_three)
    files = inputs.find(image_folder(tmp_path, 5)).files
    predictor = Predictor(bundle, num_workers=1)
    rows = [row for batch in predictor.predict(files) for row, _ in batch]
    squares = np.stack([predictor.prepare(file).square for file in files])
    calibrated = bundle.calibrated(bundle.probabilities(squares))
    for row, chances in zip(rows, calibrated, strict=True):
        assert [one.name for one in row.classes] == [*THREE]
        assert [one.probability for one in row.classes] == pytest.approx(chances, abs=1e-6)
        assert row.decision == THREE[chances.argmax()] and row.probability is row.threshold is None
        assert [one.threshold for one in row.classes] == [*bundle.threshold_of_class.values()]
        assert [one.reached for one in row.classes] == [
            one.probability >= one.threshold for one in row.classes
        ]
    (all_of_them,) = Predictor(bundle, threshold=0.0).predict(files[:1])
    assert all(one.reached and one.threshold == 0 for one in all_of_them[0][0].classes)
    (none_of_them,) = Predictor(bundle, threshold=1.0).predict(files[:1])
    assert not any(one.reached for one in none_of_them[0][0].classes)
    assert none_of_them[0][0].decision == rows[0].decision, "the largest probability is called in any case"


def test_an_image_unlike_the_training_set_gets_its_warning_with_three_classes_too(
    made_of_three: Path, tmp_path: Path
) -> None:
    bundle = model_folder.read(made_of_three)
    squares = odd_files.phantoms(60)
    prepared = [images.preprocess(np.asarray(square), **bundle.preprocess) for square in squares]
    bundle.ood_reference = ood.fit(prepared[:40], prepared[40:])
    predictor = Predictor(bundle, num_workers=1)
    (tmp_path / "photo.png").write_bytes(odd_files.encoded(odd_files.photo(np.random.default_rng(0)), "PNG"))
    (tmp_path / "x.png").write_bytes(odd_files.encoded(squares[0], "PNG"))
    photo, chest = (
        predictor.predictions([name], [predictor.prepare(tmp_path / name)])[0]
        for name in ("photo.png", "x.png")
    )
    assert "colour" in photo.warnings[0] and not chest.warnings


def test_a_class_that_the_model_does_not_know_cannot_be_explained(made_of_three: Path) -> None:
    with pytest.raises(UserError, match=r"explain_class=viral .*healthy.*bacterial, lobar"):
        Predictor(model_folder.read(made_of_three), explain_class="viral")


def test_a_row_of_findings_lists_those_that_reach_their_thresholds(
    made_of_findings: Path, tmp_path: Path
) -> None:
    bundle = model_folder.read(made_of_findings)
    files = inputs.find(image_folder(tmp_path, 5)).files
    predictor = Predictor(bundle, num_workers=1)
    rows = [row for batch in predictor.predict(files) for row, _ in batch]
    raw = bundle.probabilities(np.stack([predictor.prepare(file).square for file in files]))
    thresholds = bundle.threshold_of_class
    for row, chances, called in zip(rows, bundle.calibrated(raw), bundle.call(raw), strict=True):
        assert [one.name for one in row.classes] == [*FINDINGS]
        assert [one.probability for one in row.classes] == pytest.approx(chances, abs=1e-6)
        assert [one.threshold for one in row.classes] == [*thresholds.values()]
        found = [name for name, one in zip(FINDINGS, called, strict=True) if one]
        assert row.reached == found and row.decision == "|".join(found)
        assert predictor.explained(row) == FINDINGS[chances.argmax()]
    assert Predictor(bundle, explain_class=FINDINGS[1]).explained(rows[0]) == FINDINGS[1]
    (all_of_them,) = Predictor(bundle, threshold=0.0).predict(files[:1])
    assert all_of_them[0][0].decision == "|".join(FINDINGS)
    (none_of_them,) = Predictor(bundle, threshold=1.0).predict(files[:1])
    assert none_of_them[0][0].decision == "" and not none_of_them[0][0].error


def test_a_note_names_the_findings_that_validation_could_not_decide(
    made_of_findings: Path, made_of_three: Path
) -> None:
    notes = Predictor(model_folder.read(made_of_findings)).notes()
    (note,) = [note for note in notes if "Validation" in note]
    assert FINDINGS[3] in note and FINDINGS[0] not in note and "the threshold is 0.5" in note
    assert "Validation" not in " ".join(Predictor(model_folder.read(made_of_three)).notes())


def test_an_image_unlike_the_training_set_gets_its_warning_with_findings_too(
    made_of_findings: Path, tmp_path: Path
) -> None:
    bundle = model_folder.read(made_of_findings)
    squares = odd_files.phantoms(60)
    prepared = [images.preprocess(np.asarray(square), **bundle.preprocess) for square in squares]
    bundle.ood_reference = ood.fit(prepared[:40], prepared[40:])
    predictor = Predictor(bundle, num_workers=1)
    (tmp_path / "photo.png").write_bytes(odd_files.encoded(odd_files.photo(np.random.default_rng(0)), "PNG"))
    (photo,) = predictor.predictions(["photo.png"], [predictor.prepare(tmp_path / "photo.png")])
    assert "colour" in photo.warnings[0] and len(photo.classes) == len(FINDINGS)


def test_a_decision_is_withheld_for_an_image_unlike_the_training_set(
    made: Path, made_of_three: Path, made_of_findings: Path, tmp_path: Path
) -> None:
    """In every kind of model; abstain=false gives the decision, and the warning stays."""
    squares = odd_files.phantoms(60)
    (tmp_path / "photo.png").write_bytes(odd_files.encoded(odd_files.photo(np.random.default_rng(0)), "PNG"))
    (tmp_path / "x.png").write_bytes(odd_files.encoded(squares[0], "PNG"))
    for folder in (made, made_of_three, made_of_findings):
        bundle = model_folder.read(folder)
        prepared = [images.preprocess(np.asarray(square), **bundle.preprocess) for square in squares]
        bundle.ood_reference = ood.fit(prepared[:40], prepared[40:])
        paths = [str(tmp_path / name) for name in ("photo.png", "x.png")]
        ((photo, _), (chest, _)) = next(Predictor(bundle, num_workers=1, threshold=0.0).predict(paths))
        assert photo.withheld == "; ".join(photo.warnings) and "colour" in photo.withheld
        assert photo.decision == "" and photo.reached == []
        assert not chest.withheld and chest.decision
        told = Predictor(bundle, num_workers=1, threshold=0.0, abstain=False)
        ((anyway, _),) = next(told.predict(paths[:1]))
        assert anyway.decision and not anyway.withheld and anyway.warnings == photo.warnings


def test_another_shape_is_a_difference_and_neither_warned_of_nor_withheld(made: Path) -> None:
    bundle = model_folder.read(made)
    squares = odd_files.phantoms(60)
    prepared = [images.preprocess(np.asarray(square), **bundle.preprocess) for square in squares]
    bundle.ood_reference = ood.fit(prepared[:40], prepared[40:]) | {"aspect": [3.0, 3.1]}
    doubts = Predictor(bundle, num_workers=1).detector.doubts(prepared[0])  # type: ignore[union-attr]
    assert not doubts.warnings and not doubts.reasons
    assert len(doubts.differences) == 1 and "in the training images 3.00 to 3.10" in doubts.differences[0]
