"""Answers in words: every figure is the model's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.model_runs import THREE

from pneumo.inference import answers, model_folder
from pneumo.inference.predictor import Predictor


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def test_the_figures_are_those_of_the_test_images_or_of_validation(made: Path) -> None:
    bundle = model_folder.read(made)
    alarm = answers.alarm(bundle, 1)
    flagged, missed = (1 - bundle.figures[name]["value"] for name in ("specificity", "recall"))  # type: ignore[operator]
    assert alarm.words(True) == (
        "Above the alarm threshold, which is set to find 95 % of pneumonias; on the test images it also "
        f"flagged {percent(flagged)} of the normal ones"
    )
    assert alarm.words(False).endswith(f"; on the test images it missed {percent(missed)} of them")
    bundle.figures = {}
    labels, chances = np.array(bundle.past["labels"]), np.array(bundle.past["probabilities"])
    flagged = (chances[labels == 0] >= bundle.threshold).mean()
    words = answers.alarm(bundle, 1).words(True)
    assert words.endswith(f"on the validation images it also flagged {percent(flagged)} of the normal ones")
    given = answers.alarm(bundle, 1, 0.0).words(True)
    assert given == (
        "Above the alarm threshold, which you gave; on the validation images it also flagged 100 % of the "
        "normal ones"
    )
    bundle.past = {"labels": [], "probabilities": []}
    assert answers.alarm(bundle, 1).words(True).endswith("of pneumonias")


def test_a_prediction_says_on_which_side_it_is(made: Path) -> None:
    predictor = Predictor(model_folder.read(made), num_workers=1)
    high, low = predictor._of_two(1.0), predictor._of_two(0.0)
    assert high.answer.startswith("Above") and low.answer.startswith("Below")
    assert high.decision == "PNEUMONIA" and low.decision == "NORMAL"


def test_each_class_and_finding_has_its_words(made_of_three: Path, made_of_findings: Path) -> None:
    bundle = model_folder.read(made_of_three)
    shown = Predictor(bundle, num_workers=1, threshold=0.3)._of_classes(np.array([0.1, 0.2, 0.7]))
    assert shown.answer.startswith(
        f"{shown.decision} is the most probable class. Above the alarm threshold of"
    )
    own = answers.alarm(bundle, 1)
    assert bundle.class_figures is not None
    figure = bundle.class_figures[THREE[1]]["specificity_at_threshold"]["value"]
    assert figure is not None
    assert f"flagged {percent(1 - figure)} of the others" in own.words(True) and THREE[1] in own.words(True)
    findings = Predictor(model_folder.read(made_of_findings), num_workers=1)
    assert findings._of_classes(np.full(4, 1e-6)).answer == "No finding reaches its alarm threshold."
    assert findings._of_classes(np.full(4, 1 - 1e-6)).answer.count("Above the alarm threshold of") == 4
    assert "is at probability 0.5" in findings.alarms[3].words(True)


@pytest.mark.parametrize("kind", ["two", "three"])
def test_a_folder_of_an_older_version_keeps_its_numbers(
    kind: str, model_dir: Path, dir_of_three: Path
) -> None:
    """Its model.json has neither a calibration nor patients."""
    folder = model_dir if kind == "two" else dir_of_three
    facts = json.loads((folder / "model.json").read_text())
    facts.pop("past_patients")
    facts.pop("calibration", None)
    (folder / "model.json").write_text(json.dumps(facts))
    bundle = model_folder.read(folder)
    assert bundle.calibration is None and bundle.past_patients is None
    assert Predictor(bundle, num_workers=1).sets is not None
