"""What a comparison holds, as types: the content of comparison.json, key by key.

Scores are fractions. An interval's ends are NaN where there is none; the JSON then has null. Of more than two
classes, keys that make sense for two alone are absent or empty, and `class_names`, `classes` are present.
Several findings have the same keys: a finding, present or absent, takes the place of a class.
"""

from typing import Any, NotRequired, TypedDict

from pneumo.evaluation.subgroup_statistics import SubgroupResult
from pneumo.names import CLASS_NAMES

Confusion = list[list[int]]  # [[tn, fp], [fn, tp]]; images by true and called class
# Of several findings, a row of each: [tn, fp, fn, tp].
EpochScores = dict[str, float]  # "epoch", "train/loss", "val/f1", ...


class ScoreInterval(TypedDict):
    """A score on the test images with its 95 % interval over patients."""

    value: float
    low: float
    high: float


class ScoreRow(ScoreInterval):
    """As above, the mean over a configuration's runs: their standard deviation, and each run's own score."""

    sd: float | None
    per_run: list[float]


class RunRow(TypedDict):
    """One run of a configuration."""

    run_id: str
    name: str
    seed: int
    epoch: int | None
    history: list[EpochScores]
    notes: list[str]
    commit: str | None
    device: str | None
    precision: str | None
    monitor: str  # the validation score that chose the epoch, or would have
    networks: NotRequired[int]  # of a cross-validation: one a fold


class Validation(TypedDict):
    """Mean scores on the validation images, and each run's matrix."""

    accuracy: float | None
    f1: float | None
    auroc: float | None
    scores: dict[str, float]  # those that can rank, and log_loss
    confusion: list[Confusion]


class PredictiveValues(TypedDict):
    """Positive and negative predictive value at one prevalence, with 95 % intervals over patients."""

    ppv: float
    ppv_low: float
    ppv_high: float
    npv: float
    npv_low: float
    npv_high: float


class OperatingPoint(TypedDict):
    """One threshold rule: each run's threshold, and what these thresholds give on the test images."""

    thresholds: list[float]
    validation_recall: float | None
    scores: dict[str, ScoreInterval]
    predictive_values: dict[str, PredictiveValues]  # by prevalence


class Temperature(TypedDict):
    """Each run's temperature, and the mean calibration of the test images with it."""

    values: list[float | list[float]]  # of several findings, one for each
    after: dict[str, float]


class RecalibrationRow(ScoreInterval):
    """The runs' mean with its interval over patients, and each run's own. NaN where the classes separate."""

    per_run: list[float]


class CalibrationRow(TypedDict):
    """Calibration of the test images by logistic recalibration, and the ECE of a calibrated network."""

    slope: RecalibrationRow  # below 1: the probabilities are too extreme
    intercept: RecalibrationRow  # with the slope fixed at 1; above 0: the probabilities are too low
    ece_if_calibrated: float  # the mean ECE of calibrated networks with these probabilities


class ClassRow(TypedDict):
    """One of more than two classes against the rest. An ensemble's or the runs' mean."""

    images: int
    patients: int
    scores: dict[str, ScoreInterval]  # auroc, recall, specificity, precision, f1, auprc, ece
    calibration: CalibrationRow


class SubtypeRow(TypedDict):
    """The pneumonias of one kind against all normal images."""

    images: int
    normal: int
    recall: ScoreInterval
    auroc: ScoreInterval
    auprc: ScoreInterval
    accuracy: ScoreInterval


class Curve(TypedDict):
    """A mean curve over the grid, with its 95 % band."""

    value: list[float]
    low: list[float]
    high: list[float]


class CalibrationBin(TypedDict):
    """Images of one bin, their mean probability and the observed share of PNEUMONIA."""

    images: int
    mean: float
    share: float
    low: float  # the share's 95 % interval over patients
    high: float


class Curves(TypedDict):
    """What is drawn of one configuration. Of more than two classes, curves are means over the classes."""

    grid: list[float]
    roc: Curve
    pr: Curve
    calibration: list[CalibrationBin]  # of more than two classes, of the called class's probability
    net_benefit: NotRequired[Curve]  # at the thresholds of the result's `decision`


class Cost(TypedDict, total=False):
    """What a configuration costs to use and to train; None or absent where it is not known."""

    parameters: float
    flops: float
    latency_ms: float
    image_size: int
    weights_bytes: int | None
    device: str | None
    images_per_s: float | None
    epoch_s: float | None
    peak_memory_mib: float | None


class ConfigurationStart(TypedDict):
    """What a configuration of any number of classes has."""

    name: str
    model: str
    protocol: str
    seeds: list[int]
    rank: int | None  # None: an ensemble, or chosen on the test images
    ensemble: bool
    runs: list[RunRow]
    scores: dict[str, ScoreRow]
    validation: Validation


class ConfigurationRow(ConfigurationStart):
    """Runs that differ by their seed alone; with `ensemble` their averaged probabilities."""

    points: dict[str, OperatingPoint]  # by threshold rule
    temperature: Temperature | None
    calibration: NotRequired[CalibrationRow]
    net_benefit: NotRequired[list[float]]  # at the thresholds of the result's `decision`
    subtypes: dict[str, SubtypeRow]
    confusion: list[Confusion]  # of the test images, at probability 0.5, one a run
    classes: NotRequired[dict[str, ClassRow]]  # of more than two classes
    if_calibrated: NotRequired[dict[str, float]]  # of more than two: the mean ECEs of calibrated networks
    id: NotRequired[str]  # c1, c2, ...; e1, e2, ... of ensembles
    more_seeds: NotRequired[str]  # the command that adds seeds, if there is one seed
    curves: NotRequired[Curves]  # of the first configurations only
    cost: NotRequired[Cost]


class RecipeTest(TypedDict):
    """The difference of two recipes: the 95 % interval and p over seeds and patients. It decides."""

    low: float
    high: float
    p: float | None  # None: nothing varied, so no test is possible
    p_holm: float | None
    error: float
    freedom: float
    over_folds: NotRequired[bool]  # of cross-validations: over folds instead of seeds and patients


class PairScore(TypedDict):
    """A paired difference, first minus second, with its 95 % interval and p over patients alone.

    It is about the trained networks; `with_seeds` is about the configurations, if both have two runs or more.
    """

    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    with_seeds: RecipeTest | None


class Equivalence(TypedDict):
    """What a pair says about a margin, in the score that ranks."""

    margin: float
    p: float | None  # of two one-sided tests; below .05 after Holm: equivalent within the margin
    p_holm: float | None
    detectable: float | None  # the difference that 80 % of such comparisons would show
    seeds_needed: int | None  # a side, to show a difference of `margin`; None: more patients are needed


class McNemar(TypedDict):
    """Images that only one of two ensembles gets right."""

    only_first: int
    only_second: int
    p: float | None
    p_holm: float | None


class DeLong(TypedDict):
    """The difference in the seeds' mean AUROC, of more than two classes their macro AUROC."""

    difference: float
    p: float | None
    p_holm: float | None


class PairTests(TypedDict):
    """Two configurations, by id: their differences and tests."""

    first: str
    second: str
    scores: dict[str, PairScore]
    points: dict[
        str, dict[str, PairScore]
    ]  # by threshold rule (not 0.5), where both sides have it; exploratory
    tempered: dict[str, PairScore]  # Brier and log-loss after each run's temperature; empty without one
    equivalence: Equivalence | None  # None: a side has one seed
    mcnemar: McNemar
    delong: NotRequired[DeLong]


class PairRow(PairTests):
    """Two configurations, and by score what may be claimed."""

    differ_in: list[str]  # settings; with several, the data do not say which one matters
    verdicts: dict[str, str]


class Choice(TypedDict):
    """The configuration that validation prefers, and how much that means."""

    id: str
    score: float  # its mean validation score, of the score that ranks
    log_loss: float
    tied: list[str]  # ids whose validation score is within one standard error


class Optimism(TypedDict):
    """By how much the first on the test images is too high because these images picked it (BBC-CV)."""

    value: float | None  # None: nothing to choose from, or too few patients
    corrected: float | None
    above_mean: float  # the first minus the mean of all configurations
    draws: int


class FoldRow(TypedDict):
    """The network of a fold, and its score on the images of that fold."""

    seed: int
    fold: int
    run_id: str
    name: str
    epoch: int | None
    temperature: float | list[float] | None  # of several findings, one for each
    images: int
    score: float  # of the score that ranks


class EnsembleTest(TypedDict):
    """The test scores of the ensemble of one cross-validation, with intervals over patients."""

    seed: int
    score: ScoreInterval  # of the score that ranks
    accuracy: ScoreInterval
    at_thresholds: dict[str, dict[str, float]]  # by rule: sensitivity and specificity


class CrossValidated(TypedDict):
    """What the out-of-fold predictions of a configuration give, in the score that ranks."""

    id: str
    score: ScoreInterval  # pooled, the mean over seeds; the interval is over folds
    log_loss: float
    sd: float | None  # between folds
    thresholds: list[dict[str, float]]  # by seed and rule
    networks: list[FoldRow]
    on_test: list[EnsembleTest]  # of the seeds whose networks were all scored on test


class CrossValidation(TypedDict):
    """Cross-validations among the configurations."""

    folds: int
    images: int  # outside test
    patients: int | None
    scored: bool  # True: compared on test, as ensembles
    rows: list[CrossValidated]


class Differences(TypedDict):
    """The settings in which the configurations differ, each one's values by id, and the shared settings."""

    keys: list[str]
    values: dict[str, list[object]]
    shared: dict[str, object]


class Mistake(TypedDict):
    """A test image that the first configuration gets wrong, and how many of all runs do."""

    path: str
    patient: str | None
    label: int
    probability: float  # of more than two classes, of the called one
    called: NotRequired[int]
    own_probability: NotRequired[float]  # of the true one of more than two classes
    finding: NotRequired[str]  # of several findings, the one that is wrong; label and probability are its own
    wrong_in: int
    of: int


class ImageSet(TypedDict):
    """The images that the runs were scored on."""

    images: int
    normal: NotRequired[int]
    pneumonia: NotRequired[int]
    classes: NotRequired[dict[str, int]]  # images of each of more than two classes
    patients: int | None  # None unless every image names its patient
    by_class: dict[str, int]  # patients with a normal image, with an ill one; with one of each class
    clusters: int  # patients, where an image without one counts as one
    images_without_patient: int
    subtypes: dict[str, int]


class Decision(TypedDict):
    """What every decision curve is compared with: treat all. To treat none has the net benefit 0."""

    thresholds: list[float]  # threshold probabilities
    treat_all: list[float]
    prevalence: float  # share of ill images


class Bootstrap(TypedDict):
    """How the draws were made."""

    draws: int
    kept: NotRequired[int]  # of more than two classes, the draws with images of each class
    seed: int
    scheme: str
    level: float


class FindingSet(TypedDict):
    """Findings that are not compared: fewer than `fewest` test patients have them, or do not."""

    fewest: int
    left_out: dict[str, int]  # patients of the rarer value


class Drop(TypedDict):
    """One score of a configuration on its own test images and on another set, and the difference.

    `low`, `high` and `p` are over the patients of both sets, and over the seeds where there are several. They
    are nan and None without internal test images.
    """

    internal: float | None
    external: float
    difference: float | None
    low: float
    high: float
    p: float | None


class UseRow(TypedDict):
    """Scores of a configuration as its models are used, and cross-fitted on the other set."""

    used: dict[str, ScoreInterval]
    recalibrated: dict[str, ScoreInterval]  # empty: too few patients of a class


class UnlikeRow(TypedDict):
    """The share of images that look unlike the training images, and scores with and without them."""

    share: float
    every: dict[str, ScoreInterval]
    without: dict[str, ScoreInterval]  # empty: a class has no images left


class ExternalRow(TypedDict):
    """What becomes of one configuration on another set."""

    drops: dict[str, Drop]
    internal_rank: int | None
    external_rank: int
    use: UseRow
    unlike: UnlikeRow | None


class DeployedModel(TypedDict):
    """How a run's model turns probabilities into answers, and what cross-fitting on the other set gave."""

    threshold: float | None  # of uncalibrated probabilities; None: more than two classes
    calibration: dict[str, Any] | None  # pneumo.evaluation.calibrators; None: several findings
    recalibration: list[dict[str, Any]]  # that of each fold; empty: too few patients of a class


class Tau(TypedDict):
    """Kendall's tau-b of the internal and the external ranking of the configurations."""

    value: float
    low: float
    high: float
    configurations: int


class OverlapRow(TypedDict):
    """Images of the other set that a run's model knows from its training, and what was not compared."""

    run: str
    images: int
    words: str
    unchecked: list[str]


class ExternalSet(TypedDict):
    """Another labelled set: how the models do on it, and how it differs from their own."""

    name: str
    rule: str  # of the thresholds
    patients: int
    patients_per_class: int  # of the smaller class
    overlap: list[OverlapRow]
    rows: dict[str, ExternalRow]  # by the configuration's id
    models: dict[str, DeployedModel]  # by the run's id
    tau: Tau | None
    subgroups: NotRequired[SubgroupResult]
    subgroups_of: NotRequired[str]  # the configuration whose subgroups they are
    shift: NotRequired[dict[str, Any]]


class Result(TypedDict):
    """What the runs' predictions give."""

    rank_by: str
    margin: float
    class_names: NotRequired[list[str]]  # of more than two classes, or of the findings compared
    findings: NotRequired[FindingSet]  # of several findings an image
    external: NotRequired[ExternalSet]  # if the images are another set's, not the runs' own test images
    scored_on: str  # test, or val if a run has no test predictions
    bootstrap: Bootstrap
    test: ImageSet
    configurations: list[ConfigurationRow]
    optimistic: list[ConfigurationRow]
    ensembles: list[ConfigurationRow]
    pairs: list[PairRow]
    ensemble_pairs: list[PairRow]  # each ensemble is one predictor, so only patients are chance
    choice: Choice | None
    cross_validation: CrossValidation | None
    optimism: Optimism | None
    decision: Decision | None  # None: more than two classes
    differences: Differences
    mistakes: list[Mistake]


class About(TypedDict):
    """Where the runs came from, and what compared them."""

    experiment: str
    sweep: str | None
    made: str
    version: str
    command: str
    software: dict[str, str]
    commits: list[str]
    digest: str
    data: str | None
    synthetic: bool
    runs_at: NotRequired[str]  # the address of a run in MLflow, up to its id
    show_runs: NotRequired[str]  # the command that shows the runs
    external: NotRequired[list[str]]  # the other sets that runs were scored on


class LeftOut(TypedDict):
    """A run that was not compared."""

    run: str
    reason: str


class Unscored(TypedDict):
    """A run whose test images were never scored, and the command that scores them."""

    run: str
    command: str


class SplitSize(TypedDict):
    """Images and patients of one split."""

    images: int
    normal: NotRequired[int]
    pneumonia: NotRequired[int]
    classes: NotRequired[dict[str, int]]  # images of each of more than two classes
    patients: int | None


class Comparison(Result):
    """A finished comparison."""

    about: About
    left_out: list[LeftOut]
    unscored: list[Unscored]
    splits: dict[str, SplitSize] | None


def many(result: Result) -> bool:
    """More than two classes?"""
    return "class_names" in result


def several_findings(result: Result) -> bool:
    """Several findings an image? Then `many` is true as well."""
    return "findings" in result


def class_names(result: Result) -> list[str]:
    """The names of the classes, in the order of their labels."""
    return result.get("class_names", list(CLASS_NAMES))


def all_rows(result: Result) -> list[ConfigurationRow]:
    """The ranked configurations, then the optimistic ones."""
    return [*result["configurations"], *result["optimistic"]]
