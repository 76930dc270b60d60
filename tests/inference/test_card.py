"""The model card: every figure is the bundle's own, and the limits are in it."""

from pathlib import Path

from support.model_runs import FINDINGS, THREE

from pneumo.inference import card, model_folder
from pneumo.inference.schema import Figure
from pneumo.names import PROTOCOLS, TEST_SELECTED


def test_the_card_has_the_models_facts_and_figures(made: Path) -> None:
    bundle = model_folder.read(made)
    text = card.text(bundle)
    assert text.startswith("# Model card: resnet18, NORMAL or PNEUMONIA\n\n**Not a medical device.**")
    for fact in (
        bundle.fingerprint,
        bundle.data_digest,
        f"{bundle.temperature:.3f}",
        f"{bundle.threshold:.3f}",
    ):
        assert fact in text
    assert "black border cropped, histogram equalised, resized and padded to 32 x 32 grey pixels" in text
    assert card.RULE_WORDS[bundle.threshold_rule].format(images="validation images") in text.replace(
        "\n", " "
    )
    assert "- train: not recorded\n- val: 24 images\n- test: 24 images" in text
    auroc = bundle.figures["auroc"]
    row = f"{auroc['value']:.4f} | {auroc['low']:.4f} to {auroc['high']:.4f}"
    assert f"| area under the ROC curve | {row} |" in text
    assert text.count("\n| ") == 1 + len(bundle.figures)  # the table's head and a row per score


def test_what_is_not_defined_or_not_prepared_is_not_claimed(made: Path) -> None:
    bundle = model_folder.read(made)
    bundle.synthetic, bundle.protocol, bundle.run_id = False, TEST_SELECTED, "a" * 32
    bundle.preprocess = {"image_size": 224, "crop_black": False, "equalize": False}
    bundle.figures = {"f1": Figure(value=None, low=None, high=None)}
    bundle.counts = {
        "images": {"train": {"NORMAL": 1341, "PNEUMONIA": 3875}, "val": {}, "test": {}},
        "patients": {"train": 2790},
    }
    text = card.text(bundle)
    assert "synthetic" not in text and f"run `{'a' * 32}`" in text
    assert PROTOCOLS[TEST_SELECTED] in text
    assert "order: resized and padded to 224 x 224" in text and "cropped" not in text
    assert "| F1 | - | - |" in text
    assert "- train: 5,216 images of 2,790 patients: 1,341 NORMAL, 3,875 PNEUMONIA" in text


def test_the_card_of_three_classes_has_a_row_for_each(made_of_three: Path) -> None:
    bundle = model_folder.read(made_of_three)
    text = card.text(bundle)
    assert text.startswith("# Model card: resnet18, healthy, bacterial, lobar or viral|<other>\n")
    assert "3 input channel(s) and 3 classes" in text
    auroc = bundle.figures["auroc"]
    row = f"{auroc['value']:.4f} | {auroc['low']:.4f} to {auroc['high']:.4f}"
    assert f"| macro area under the ROC curve | {row} |" in text
    names = [name.replace("|", "\\|") for name in THREE]
    for name, threshold in zip(names, bundle.threshold_of_class.values(), strict=True):
        assert f"| {name} | {threshold:.3f} |" in text
    for name, figures in zip(names, bundle.class_figures.values(), strict=True):
        area = figures["auroc"]
        assert f"| {name} | {area['value']:.4f} ({area['low']:.4f} to {area['high']:.4f}) |" in text
    tables = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(tables) == {3, 4, 9}, "every row of a table has its cells"
    bundle.figures = {}
    assert "None. The model was never given its test images" in card.text(bundle)


def test_the_card_of_findings_has_a_row_for_each_and_names_what_is_not_chosen(made_of_findings: Path) -> None:
    bundle = model_folder.read(made_of_findings)
    bundle.counts = {
        "images": {"train": {"No Finding": 1341, "Edema": 875, "Nodule": 30}},
        "patients": {"train": 790},
    }
    text = card.text(bundle)
    assert text.startswith("# Model card: resnet18, 4 findings\n") and "and 4 findings. Images" in text
    auroc = bundle.figures["auroc"]
    row = f"{auroc['value']:.4f} | {auroc['low']:.4f} to {auroc['high']:.4f}"
    assert f"| mean area under the ROC curve | {row} |" in text
    for name in FINDINGS:
        temperature, threshold = bundle.class_temperatures[name], bundle.threshold_of_class[name]
        assert f"| {name} | temperature {temperature:.3f} | {threshold:.3f} |" in text
        area = bundle.class_figures[name]["auroc"]
        assert f"| {name} | {area['value']:.4f} ({area['low']:.4f} to {area['high']:.4f}) |" in text
    assert "none without, Hernia: the threshold is 0.5" in text
    # An image with two findings is in two counts, so they have no sum.
    assert "- train: images of 790 patients: 1,341 No Finding, 875 Edema, 30 Nodule" in text
    tables = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(tables) == {4, 7}, "every row of a table has its cells"
