"""Calibration and thresholds from a site's images, with figures that no image's own patient took part in."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.model_runs import FINDINGS, THREE, change_facts

from pneumo import UserError
from pneumo.evaluation import calibrators, metrics, multiclass, multilabel
from pneumo.evaluation.predictions import SplitResult
from pneumo.inference import answers, card, model_folder, recalibration
from pneumo.inference.bundle import Bundle
from pneumo.inference.predictor import Predictor
from pneumo.names import CLASS_NAMES

DIGEST = "5" * 64
Places = np.ndarray


def rows(classes: tuple[str, ...] = CLASS_NAMES, patients: int = 60, findings: bool = False) -> SplitResult:
    """Two images of each of `patients` patients a class, with probabilities that are far too extreme."""
    rng = np.random.default_rng(0)
    count = patients * len(classes) * 2
    labels = np.arange(count) // 2 % len(classes)
    people: list[str | None] = [f"p{row // 2}" for row in range(count)]
    logits = rng.normal(0, 4, (count, len(classes)))
    logits[np.arange(count), labels] += 3
    if findings:
        of = (rng.random((count // 2, len(classes))) < 0.4).astype(np.int64)[np.arange(count) // 2]
        of[:, -1] = (np.arange(count) // 2 < 4).astype(np.int64)  # four patients have the last finding
        chances = 1 / (1 + np.exp(-(rng.normal(0, 4, of.shape) + 3 * of)))
        return SplitResult(
            paths=[f"{row}.png" for row in range(count)],
            patients=people,
            labels=of,
            probabilities=chances,
            class_names=classes,
        )
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return SplitResult(
        paths=[f"{row}.png" for row in range(count)],
        patients=people,
        labels=labels,
        probabilities=chances if len(classes) > 2 else chances[:, 1],
        class_names=classes,
    )


def recalibrated(parent: Bundle, site: SplitResult) -> Bundle:
    unlike = np.arange(len(site.paths)) < 3
    return recalibration.recalibrated(parent, site, name="pneumo 3", digest=DIGEST, unlike=unlike)


def parts_of(site: SplitResult, stratum: np.ndarray) -> list[Places]:
    """The images of each part: patients by stratum and name, dealt out in turn."""
    known = {name: int(stratum[row]) for row, name in enumerate(site.patients)}
    order = sorted(known, key=lambda name: (known[name], str(name)))
    fold = {name: place % 5 for place, name in enumerate(order)}
    of = np.array([fold[name] for name in site.patients])
    return [np.flatnonzero(of == part) for part in range(5)]


def test_two_classes_are_called_as_images_of_other_patients_choose(made: Path) -> None:
    parent, site = model_folder.read(made), rows()
    found = recalibrated(parent, site)
    assert found.thresholds == metrics.operating_points(site.labels, site.probabilities)
    assert found.calibration == calibrators.choose(site.labels, site.probabilities, site.patients)
    assert found.calibration is not None or found.temperature != parent.temperature
    called, chances = np.zeros(len(site.paths), bool), np.zeros(len(site.paths))
    for own in parts_of(site, site.labels):
        other = np.setdiff1d(np.arange(len(site.paths)), own)
        assert not {site.patients[row] for row in own} & {site.patients[row] for row in other}
        truth, raw = site.labels[other], site.probabilities[other]
        called[own] = site.probabilities[own] >= metrics.operating_points(truth, raw)["sensitivity_95"]
        kind = calibrators.choose(truth, raw, [site.patients[row] for row in other])
        kind = kind or calibrators.fit("temperature", truth, raw)
        chances[own] = calibrators.applied(kind, site.probabilities[own])
    ill = site.labels == 1
    assert found.figures["recall"]["value"] == pytest.approx(called[ill].mean())
    assert found.figures["specificity"]["value"] == pytest.approx(1 - called[~ill].mean())
    assert found.figures["brier"]["value"] == pytest.approx(((chances - site.labels) ** 2).mean())
    assert found.past["probabilities"] == pytest.approx(chances.tolist())
    in_sample = site.probabilities[ill] >= found.raw_threshold
    assert in_sample.mean() >= 0.95 > called[ill].mean(), "the same images would flatter the threshold"
    auroc = metrics.all_scores(site.labels, site.probabilities)["auroc"]
    assert found.figures["auroc"]["value"] == pytest.approx(auroc)


def test_each_of_three_classes_is_called_as_others_choose(made_of_three: Path) -> None:
    parent, site = model_folder.read(made_of_three), rows(THREE)
    found = recalibrated(parent, site)
    reached = np.zeros(site.probabilities.shape, bool)
    for own in parts_of(site, site.labels):
        other = np.setdiff1d(np.arange(len(site.paths)), own)
        truth, raw = site.labels[other], site.probabilities[other]
        kind = calibrators.choose(truth, raw, [site.patients[row] for row in other])
        kind = kind or calibrators.fit("temperature", truth, raw)
        points = multiclass.operating_points(THREE, truth, calibrators.applied(kind, raw))
        cuts = [points[name]["sensitivity_95"] for name in THREE]
        reached[own] = calibrators.applied(kind, site.probabilities[own]) >= cuts
    assert found.class_figures is not None
    for k, name in enumerate(THREE):
        own = site.labels == k
        figures = found.class_figures[name]
        assert figures["recall_at_threshold"]["value"] == pytest.approx(reached[own, k].mean())
        assert figures["specificity_at_threshold"]["value"] == pytest.approx(1 - reached[~own, k].mean())


def test_a_finding_with_too_few_patients_stays_as_it_was(made_of_findings: Path) -> None:
    parent = replace(model_folder.read(made_of_findings))
    assert parent.class_thresholds and parent.class_temperatures
    parent.class_thresholds[FINDINGS[-1]] = {"half": 0.5, "sensitivity_95": 0.3, "youden": 0.3}
    parent.class_temperatures[FINDINGS[-1]] = 1.75
    site = rows(FINDINGS, findings=True)
    found = recalibrated(parent, site)
    assert found.site is not None and found.site["kept"] == [FINDINGS[-1]]
    assert found.class_thresholds and found.class_temperatures
    assert found.class_thresholds[FINDINGS[-1]] == {"half": 0.5, "sensitivity_95": 0.3, "youden": 0.3}
    assert found.class_temperatures[FINDINGS[-1]] == 1.75
    raw = site.probabilities
    kept = multilabel.tempered(raw, [1.75] * len(FINDINGS))[:, -1]
    past = np.array(found.past["probabilities"])
    assert past[:, -1] == pytest.approx(kept, abs=1e-6), "the parent's calibration, in each part"
    assert abs(past[:, 0] - parent.calibrated(raw)[:, 0]).max() > 0.05, "the first finding's is the site's"
    assert found.threshold_of_class[FINDINGS[0]] != parent.threshold_of_class[FINDINGS[0]]
    own = site.labels[:, -1] == 1
    assert found.class_figures is not None
    assert found.class_figures[FINDINGS[-1]]["recall"]["value"] == pytest.approx((kept[own] >= 0.3).mean())


def test_too_few_patients_are_refused_however_many_images_they_have(
    made: Path, made_of_findings: Path
) -> None:
    fewest = recalibration.FEWEST_PATIENTS
    parent = model_folder.read(made)
    assert recalibrated(parent, rows(patients=fewest)).site
    words = rf"too few patients: {fewest - 1} of NORMAL, {fewest - 1} of PNEUMONIA.* needs {fewest} of each"
    with pytest.raises(UserError, match=words):
        recalibrated(parent, rows(patients=fewest - 1))
    one = rows()
    one.labels[:] = 0
    with pytest.raises(UserError, match="0 of PNEUMONIA"):
        recalibrated(parent, one)
    none = rows(FINDINGS, findings=True)
    none.labels[:] = -1
    with pytest.raises(UserError, match=r"0 with and 0 without Edema.* of any finding"):
        recalibrated(model_folder.read(made_of_findings), none)


def test_the_folder_keeps_the_site_and_the_network(made: Path, tmp_path: Path) -> None:
    parent = model_folder.read(made)
    found = recalibrated(parent, rows())
    model_folder.write(found, tmp_path / "site")
    kept = model_folder.read(tmp_path / "site")
    assert kept.site == found.site and kept.figures == found.figures and kept.past == found.past
    assert kept.site is not None and kept.site["patients"] == 120 and kept.site["unlike"] == 3
    assert kept.site["images_of"] == {"NORMAL": 120, "PNEUMONIA": 120}
    assert kept.site["patients_of"] == {"NORMAL": 60, "PNEUMONIA": 60}
    assert kept.weights.read_bytes() == parent.weights.read_bytes()
    assert kept.ood_reference == parent.ood_reference and kept.data_digest == parent.data_digest
    assert kept.test_digest not in ("", parent.test_digest), "so no test compares it with its parent"
    facts = json.loads((tmp_path / "site" / "model.json").read_text())
    change_facts(tmp_path / "site", site=facts["site"] | {"patients": "many"})
    with pytest.raises(UserError, match=r"site is .* which no trained model has"):
        model_folder.read(tmp_path / "site")


@pytest.mark.parametrize("kind", ["two", "three", "findings"])
def test_every_figure_says_that_it_is_from_the_site(
    kind: str, made: Path, made_of_three: Path, made_of_findings: Path
) -> None:
    folder = {"two": made, "three": made_of_three, "findings": made_of_findings}[kind]
    names = {"two": CLASS_NAMES, "three": THREE, "findings": FINDINGS}[kind]
    site = rows(names, findings=kind == "findings")
    found = recalibrated(model_folder.read(folder), site)
    whose = f"{len(site.paths)} images of {len(site.paths) // 2} patients of the site (cross-fitted)"
    for given in (None, 0.5):
        alarm = answers.alarm(found, len(names) - 1, given)
        assert f"on {whose} it" in alarm.words(True) and f"on {whose} it found" in alarm.both()
    text = card.text(found).replace("\n", " ")
    assert "**Recalibrated for a site.** The network is that of pneumo 3." in text and DIGEST in text
    assert f"Scores on {whose}" in text and "thresholds from images of other patients" in text
    assert "validation" not in text.partition("## Data")[0].partition("run `")[2]
    assert f"- site: {len(site.paths)} images of {len(site.paths) // 2} patients: " in text
    notes = Predictor(found, prevalence=shares(names, kind)).notes() if kind != "findings" else []
    if notes:
        assert f"This model is pneumo 3, recalibrated on {whose.removesuffix(' (cross-fitted)')}." in notes
        assert "(site: " in notes[0] and "validation" not in notes[0]


def shares(names: tuple[str, ...], kind: str) -> float | list[float]:
    return 0.1 if kind == "two" else [1 / len(names)] * len(names)
