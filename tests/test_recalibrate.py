"""`pneumo runs recalibrate`: a new version for a site, once, and refused where the set cannot give one."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import Ending
from support.images import save
from support.model_runs import SIZE, THREE, images, make
from support.model_tracker import ModelTracker

from pneumo import recalibrate
from pneumo.data import cache, manifest
from pneumo.data.settings import DataSettings
from pneumo.data.training_images import KnownImages
from pneumo.inference import model_folder, recalibration
from pneumo.inference.predictor import Predictor
from pneumo.names import RECALIBRATED_TAG, SITE_COUNTS_TAG, SITE_TAG, TRAINING_IMAGES
from pneumo.tracking.registry import Registry

Command = Callable[..., Ending]
FEWEST = recalibration.FEWEST_PATIENTS


def site(folder: Path, patients: int = FEWEST, classes: int = 2, seed: int = 5) -> Path:
    """A table and two images of each of `patients` patients a class."""
    lines = ["path,label,patient"]
    for row, image in enumerate(images(2 * classes * patients, seed)):
        save(image, folder / f"{row}.png")
        label = row % classes
        lines.append(f"{row}.png,{label},p{row // (2 * classes)}-{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def asked(folder: Path) -> tuple[str, ...]:
    return (
        "data=csv",
        f"data.root={folder}",
        "data.table=labels.csv",
        f"data.cache_dir={folder.parent}/cache",
    )


def of_tracker(tracker: ModelTracker) -> tuple[str, ...]:
    return (f"tracking.uri={tracker.uri}", f"cache_dir={tracker.folder}/cache")


def test_a_version_for_the_site_names_its_parent_and_is_made_once(
    command: Command, tracker: ModelTracker, tmp_path: Path
) -> None:
    run_id = tracker.run()
    tracker.register(run_id)
    arguments = ("runs", "recalibrate", "models:/pneumo@champion", *asked(site(tmp_path / "site")))
    ending = command(*arguments, *of_tracker(tracker))
    assert ending.code == 0, ending.err
    whose = f"{4 * FEWEST} images of {2 * FEWEST} patients of the site"
    assert f"pneumo 2: registered, pneumo 1, recalibrated on {whose}; no alias was moved" in ending.out
    assert "PNEUMONIA: found" in ending.out and "model=models:/pneumo/2 input=DIR" in ending.out
    version = tracker.client.get_model_version("pneumo", "2")
    assert version.tags[RECALIBRATED_TAG] == "pneumo 1" and version.run_id == run_id
    counts = json.loads(version.tags[SITE_COUNTS_TAG])
    assert counts["patients_of"] == {"NORMAL": FEWEST, "PNEUMONIA": FEWEST}
    assert counts["images"] == 4 * FEWEST
    assert "The network is that of pneumo 1." in version.description
    assert tracker.client.get_model_version_by_alias("pneumo", "champion").version == 1
    resolved = Registry(tracker.uri, tracker.folder / "cache").resolve("models:/pneumo/2")
    made = model_folder.read(resolved.folder, resolved.version)
    assert made.site is not None and made.site["digest"] == version.tags[SITE_TAG]
    again = command(*arguments, *of_tracker(tracker))
    assert (
        again.code == 0 and "pneumo 2 is already this network" in again.out and "nothing to do" in again.out
    )
    pointed = command(*arguments, "alias=here", *of_tracker(tracker))
    assert pointed.code == 0 and "here points to it" in pointed.out
    assert tracker.client.get_model_version_by_alias("pneumo", "here").version == 2
    one = command(
        "predict", "model=models:/pneumo@here", f"input={tmp_path}/site/0.png", *of_tracker(tracker)
    )
    assert f"note: This model is pneumo 1, recalibrated on {whose}." in one.out, one.err
    assert f"on {whose} (cross-fitted) it found" in one.out
    other = command(
        "runs", "recalibrate", "models:/pneumo@champion", *asked(site(tmp_path / "other", seed=9)),
        *of_tracker(tracker),
    )  # fmt: skip
    assert "pneumo 3: registered" in other.out and len(tracker.versions()) == 3


def test_a_run_that_was_recalibrated_first_still_registers_as_itself(
    command: Command, tracker: ModelTracker, tmp_path: Path
) -> None:
    run_id = tracker.run()
    folder = site(tmp_path / "site")
    ending = command(
        "runs", "recalibrate", f"runs:/{run_id}", *asked(folder), "name=chest", *of_tracker(tracker)
    )
    assert ending.code == 0 and f"chest 1: registered, run {run_id}, recalibrated" in ending.out, ending.err
    ending = command("runs", "register", run_id, "alias=champion", "name=chest", *of_tracker(tracker))
    assert ending.code == 0 and "chest 2: registered" in ending.out, ending.err
    versions = {one.version: one.tags for one in tracker.client.search_model_versions("name = 'chest'")}
    assert SITE_TAG in versions[1] and SITE_TAG not in versions[2]


def test_an_alias_does_not_move_from_another_network(
    command: Command, tracker: ModelTracker, tmp_path: Path
) -> None:
    tracker.register(tracker.run())
    other = make(tmp_path / "another", "resnet18", in_channels=1, seed=3)
    second = ModelTracker.run(_of(tracker, other))
    arguments = ("runs", "recalibrate", second, *asked(site(tmp_path / "site")), "alias=champion")
    ending = command(*arguments, *of_tracker(tracker))
    assert ending.code == 1 and "pneumo 1, which has the alias champion, is another network" in ending.err
    assert len(tracker.versions()) == 1
    ending = command(*arguments, "force=true", *of_tracker(tracker))
    assert ending.code == 0 and "champion points to it" in ending.out, ending.err


def _of(tracker: ModelTracker, made: Path) -> ModelTracker:
    tracker.made = made
    return tracker


def test_a_folder_becomes_a_new_folder(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    model_folder.write(model_folder.from_run(made_models["resnet18"]), parent)
    arguments = ("runs", "recalibrate", str(parent), *asked(site(tmp_path / "site")))
    ending = command(*arguments)
    assert ending.code == 1 and "Give output=DIR" in ending.err
    assert "Traceback" not in ending.err
    ending = command(*arguments, f"output={tmp_path}/new")
    assert ending.code == 0, ending.err
    made = model_folder.read(tmp_path / "new")
    assert made.site is not None and made.site["parent"].startswith("model 0000")
    assert "not known: its run keeps no record" in ending.out
    again = command(*arguments, f"output={tmp_path}/new")
    assert again.code == 0 and "nothing to do" in again.out
    ending = command(*arguments, f"output={parent}")
    assert ending.code == 1 and "exists and holds something else" in ending.err
    assert model_folder.read(parent).site is None
    ending = command(*arguments, f"output={tmp_path}/x", "alias=champion")
    assert ending.code == 2 and "registers nothing" in ending.err


def test_what_cannot_be_calibrated_on_is_refused_in_one_line(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    model_folder.write(model_folder.from_run(made_models["resnet18"]), parent)
    folder = site(tmp_path / "site")
    table = folder / "labels.csv"
    whole = table.read_text().splitlines()

    def refused(lines: list[str], *more: str) -> str:
        table.write_text("\n".join(lines) + "\n")
        arguments = ("runs", "recalibrate", str(parent), *asked(folder), f"output={tmp_path}/new")
        ending = command(*arguments, *more)
        assert ending.code == 1 and ending.err.count("error:") == 1 and "Traceback" not in ending.err
        assert not (tmp_path / "new").exists()
        return ending.err

    few = [line for line in whole if not line.endswith(",p0-1")]
    assert f"{FEWEST - 1} of PNEUMONIA. A recalibration needs {FEWEST} of each class" in refused(few)
    normal = [line for line in whole if ",1,p" not in line]
    assert f"0 of PNEUMONIA. A recalibration needs {FEWEST} of each class" in refused(normal)
    assert "label" in refused([*whole[:-1], whole[-1].replace(",1,", ",,")])
    named = [
        line.replace(",1,", ",A,").replace(",0,", ",C," if row < 9 else ",B,")
        for row, line in enumerate(whole)
    ]
    assert "has the classes A, B, C, and" in refused(named, "data.classes=[A,B,C]")
    (folder / "0.png").write_bytes(b"no image")
    assert "1 images cannot be read:\n  0.png: not a JPEG, PNG" in refused(whole)


def test_images_of_the_training_are_refused(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    artifacts = make(tmp_path / "outputs" / "run" / "artifacts", "resnet18", in_channels=1)
    folder = site(tmp_path / "site")
    mark = hashlib.sha256(b"image\0" + hashlib.sha256((folder / "7.png").read_bytes()).hexdigest().encode())
    known = KnownImages(
        images=frozenset([mark.hexdigest()[:16]]), patients=frozenset(), namespace=None, keyed=False
    )
    (artifacts / TRAINING_IMAGES).write_text(known.as_json())
    arguments = ("runs", "recalibrate", str(artifacts), *asked(folder), f"output={tmp_path}/new")
    ending = command(*arguments)
    assert ending.code == 1 and "knows images of this set from its training: 1 images" in ending.err
    assert "7.png" in ending.err and not (tmp_path / "new").exists()
    (folder / "7.png").write_bytes((folder / "9.png").read_bytes())
    ending = command(*arguments)
    assert "note: 2 images have the bytes of another patient's" in ending.out
    assert f"{FEWEST - 1} of PNEUMONIA" in ending.err, "patients who share an image are one"
    save(images(2, seed=99)[1], folder / "7.png")
    ending = command(*arguments)
    assert ending.code == 0, ending.err
    assert "note: not compared with the training set: patients" in ending.out


def test_without_patients_each_image_counts_as_one_and_the_output_says_so(
    command: Command, made_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = site(tmp_path / "site")
    lines = [line.rpartition(",")[0] for line in (folder / "labels.csv").read_text().splitlines()]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "0.png").unlink()
    arguments = (
        "runs",
        "recalibrate",
        str(made_models["resnet18"]),
        *asked(folder),
        f"output={tmp_path}/new",
    )
    ending = command(*arguments, "data.on_bad_image=skip")
    assert ending.code == 0, ending.err
    count = 4 * FEWEST - 1
    assert f"note: {count} images have no patient (data.patient): each counts as one patient" in ending.out
    assert "1 unreadable images are left out" in ending.out
    made = model_folder.read(tmp_path / "new")
    assert made.site is not None and made.site["patients"] == made.site["images"] == count
    assert f"on {count} images of the site" in ending.out and "an image counts as a patient" in (
        (tmp_path / "new" / "model_card.md").read_text()
    )


def test_three_classes_take_their_names_from_the_model(command: Command, tmp_path: Path) -> None:
    artifacts = make(tmp_path / "run" / "artifacts", "resnet18", in_channels=1, classes=THREE)
    folder = site(tmp_path / "site", classes=3)
    table = folder / "labels.csv"
    head, *lines = table.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    named = [f'{path},"{THREE[int(label)]}",{patient}' for path, label, patient in cells]
    table.write_text("\n".join([head, *named]) + "\n")
    ending = command("runs", "recalibrate", str(artifacts), *asked(folder), f"output={tmp_path}/new")
    assert ending.code == 0, ending.err
    made = model_folder.read(tmp_path / "new")
    assert made.site is not None and made.site["patients_of"] == dict.fromkeys(THREE, FEWEST)
    assert all(f"{name}: found" in ending.out for name in THREE)


def test_the_probabilities_are_those_of_predict(tmp_path: Path) -> None:
    """16-bit films that declare no range are as bright as in training, not as the site's brightest one."""
    preprocess = {"image_size": SIZE, "crop_black": True, "equalize": False, "pixels": 2}
    artifacts = make(tmp_path / "artifacts", "resnet18", in_channels=1, white=65535, preprocess=preprocess)
    bundle = model_folder.read(artifacts)
    folder = site(tmp_path / "site", patients=4)
    for row, image in enumerate(images(16, seed=5)):
        Image.fromarray(image.astype(np.uint16) * 16).save(folder / f"{row}.png")
    settings = DataSettings(name="csv", root=str(folder), table="labels.csv", num_workers=2)
    found = manifest.labelled(settings)
    patients: list[str | None] = [None] * 16
    given = recalibrate.Site(manifest=found, hashes={}, patients=patients, digest="", settings=settings)
    rows, unlike = recalibrate.score(bundle, given, "cpu")
    files = [str(folder / path) for path in rows.paths]
    expected = [row.probability for batch in Predictor(bundle).predict(files) for row, _ in batch]
    assert bundle.calibrated(rows.probabilities).tolist() == pytest.approx(expected, abs=1e-6)
    assert len(unlike) == 16
    brighter = cache.prepare(
        found, replace(settings, image_size=SIZE, equalize=False, cache_dir=str(tmp_path))
    )
    assert brighter.white == 4095
    other = bundle.probabilities(np.stack([brighter.images[row] for row in brighter.rows]))
    assert abs(other - rows.probabilities).min() > 1e-4, "as bright as the site's brightest one"
