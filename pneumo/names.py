"""Names that two modules share: artifacts, tags, protocols, threshold rules. All of them are promises."""

import re
from collections.abc import Sequence

# ---- artifacts of a run, relative to its artifacts folder
CONFIG = "config.yaml"
BAD_IMAGES = "bad_images.txt"
TRACEBACK = "traceback.txt"
STARTS = "starts.json"  # what each start was computed with
BEST_WEIGHTS = "checkpoints/best.safetensors"
BEST_FACTS = "checkpoints/best.json"
TRAINING_REFERENCE = "checkpoints/familiarity.json"  # what the training images look like
TRAINING_IMAGES = "checkpoints/training_images.json"  # hashes of the images that trained or chose the model
VAL_PREDICTIONS = "predictions/val.csv"
TEST_PREDICTIONS = "predictions/test.csv"
FIGURES = "figures"
REPORTS = "reports"
PREDICTIONS = "predictions"
PREDICTION_COLUMNS = ("path", "patient", "label", "probability", "prediction")  # the table's subgroups follow
SWEEP_TABLE = "sweep.json"  # on the parent run: the sweep's jobs
EXTERNAL = "external"  # the folder of scores on other labelled sets, on a run and on the parent of a sweep
COMPARISON = "comparison"  # the folder of a comparison, on the parent run of a sweep

# ---- files of the folder that `pneumo compare dossier=true` writes beside the page
DOSSIER = "dossier"
REPORTING, DATA_STATEMENT, SBOM = "reporting", "data_statement.md", "sbom.json"

FETCHED_MODELS = "models"  # in the cache folder: models from a tracking server

# ---- files of a model folder
MODEL_WEIGHTS = "model.safetensors"
MODEL_FACTS = "model.json"
MODEL_CARD = "model_card.md"

# ---- tags of a run
FINGERPRINT_TAG = "pneumo.fingerprint"
PROTOCOL_TAG = "pneumo.protocol"
DATA_DIGEST_TAG = "pneumo.data_digest"
SPLIT_TAG = "pneumo.split"  # the train/validation split alone
TEST_SET_TAG = "pneumo.test_set"  # the test set alone
POOL_TAG = "pneumo.pool"  # the images outside the test set, however they are split
SYNTHETIC_TAG = "pneumo.synthetic"
CORE_TAG = "pneumo.core"  # the version of training and evaluation; if absent, 1
PIXELS_TAG = "pneumo.pixels"  # the pixel rule; if absent, 1
CLASSES_TAG = "pneumo.classes"  # the class names as JSON, where there are more than two
TASK_TAG = "pneumo.task"  # multilabel; if absent, one class an image
EXTERNAL_TAG = (
    "pneumo.external"  # the names of the other sets that the model was scored on, with blanks between
)
RECALIBRATED_TAG = "pneumo.recalibrated_from"  # of a model version: the model whose network it has
SITE_TAG = "pneumo.site_digest"  # of a model version: the site's images that it was recalibrated on
SITE_COUNTS_TAG = "pneumo.site_counts"  # images and patients of them, as JSON
SCORED_TAG = "pneumo.test_scored"  # when the model was given its test images (UTC)
MIXED_TAG = "pneumo.mixed"  # what changed when a run was continued with on_code_change=keep
STATE_TAG = "pneumo.state"  # PRUNED, which MLflow does not know
REASON_TAG = "pneumo.status_reason"
HEARTBEAT_TAG = "pneumo.heartbeat"  # when the run's process was last alive (UTC); not in the journal
JOURNAL_TAG = "pneumo.journal_id"
COMMIT_TAG = "mlflow.source.git.commit"
DIRTY_TAG = "pneumo.git_dirty"
SOURCE_TAG = "mlflow.source.name"
NOTE_TAG = "mlflow.note.content"  # Markdown that MLflow's pages show

# ---- tags of a sweep
SWEEP_TAG = "pneumo.sweep"  # also on each of its runs; MLflow's own tag names the parent by run id
PARENT_TAG = "mlflow.parentRunId"
BEST_TAG = "pneumo.best_fingerprint"
BEST_OVERRIDES_TAG = "pneumo.best_overrides"
BEST_CHILD_TAG = "best_child"
OVERRIDES_TAG = "pneumo.overrides"
QUESTION_TAG = "pneumo.question"

# ---- how the epoch of a run was chosen
PATIENT_VAL, OFFICIAL_VAL, TEST_SELECTED = "patient_val", "official_val", "test_selected"
PROTOCOLS = {
    PATIENT_VAL: "the epoch was chosen on the validation set, which shares no known patient with training; "
    "the test set took no part in any choice",
    OFFICIAL_VAL: "the epoch was chosen on the set's own validation images, unchanged; "
    "the test set took no part in any choice",
    TEST_SELECTED: "the epoch was chosen on the test set itself, so the test figure is optimistic: "
    "expect less on new images",
}
OUTSIDE = "outside"  # predictions from elsewhere: how the epoch was chosen is not known

# ---- the scores by which a comparison can rank
RANKED_BY = ("accuracy", "balanced_accuracy", "f1", "mcc", "auroc", "auprc")
CLASS_RANKED_BY = (*RANKED_BY, "f1_weighted", "kappa")  # of more than two classes

# ---- where a probability becomes a decision; each rule but the first is computed on validation
THRESHOLD_RULES = ("half", "sensitivity_95", "youden")

# ---- the task of a run or model with several findings an image; the other task has no name in files
MULTILABEL = "multilabel"

# ---- columns of a table that make subgroups; names as `plain_column` has them
SUBGROUP_COLUMNS = {
    "sex": "sex gender patientsex patientgender patientsexdicom".split(),
    "age": "age patientage ageyears".split(),
    "view": "view viewposition projection appa frontallateral viewpositiondicom".split(),
}
AGE_COLUMNS = (*SUBGROUP_COLUMNS["age"], "ageinyears")

# ---- classes of the public set: 0 and 1
CLASS_NAMES = ("NORMAL", "PNEUMONIA")


def plain_column(name: str) -> str:
    """A column's name without case, blanks and punctuation."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def many_classes(class_names: Sequence[str]) -> bool:
    """Other classes than NORMAL and PNEUMONIA? Then each has a probability, not PNEUMONIA alone.

    Two classes always have these names. So two other names are two findings (data.task=multilabel).
    """
    return tuple(class_names) != CLASS_NAMES


def class_metric(name: str) -> str:
    """The part of a metric's name for a class: `test/class/<part>/auroc`. MLflow takes few characters."""
    kept = re.sub(r"[^\w. -]", "_", name)
    return kept if kept.strip(".") else "_"  # a name of dots would be a step in a path


# ---- metrics of the machine, not of the model: the same run measures others each time
MEASURED = ("time/", "memory/", "system/")
