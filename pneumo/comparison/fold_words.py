"""What a comparison says about cross-validations, in sentences and as a section of the page."""

from pneumo.comparison import appendix
from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.content import Comparison, CrossValidation, many
from pneumo.comparison.words import number, plural, ranked, score_words, temperature, with_interval
from pneumo.names import THRESHOLD_RULES

_RULES = {"half": "0.5", "sensitivity_95": "sensitivity .95", "youden": "Youden"}


def conclusions(comparison: Comparison) -> list[str]:
    """How the figures of cross-validations came about; nothing without any."""
    found = comparison["cross_validation"]
    if found is None:
        return []
    return [_how(found), _where(comparison, found), *_on_test(comparison, found)]


def _how(found: CrossValidation) -> str:
    people = f" of {plural(found['patients'], 'patient')}" if found["patients"] else ""
    return (
        f"Cross-validation with {found['folds']} folds: each of the {found['images']:,} images{people} "
        "outside test was scored by the network that was not trained on it, after its temperature. Each "
        "network's epoch and temperature were chosen on its own fold, so these scores are a little too high."
    )


def _where(comparison: Comparison, found: CrossValidation) -> str:
    word = score_words(comparison)[comparison["rank_by"]]
    chosen = "The configuration is" if many(comparison) else "Configuration and thresholds are"
    if not found["scored"]:
        return (
            f"{chosen} chosen on these out-of-fold predictions alone: by {word}, of equal ones by log-loss."
        )
    return (
        "On test, a cross-validation is one ensemble: the mean of the calibrated probabilities of its "
        f"{found['folds']} networks. {chosen} chosen on the out-of-fold predictions; test labels only score."
    )


def _on_test(comparison: Comparison, found: CrossValidation) -> list[str]:
    """The test scores of the ensembles that have some, where the page is about out-of-fold predictions."""
    if found["scored"]:
        return []
    names = {row["id"]: row["name"] for row in comparison["configurations"]}
    word = score_words(comparison)[comparison["rank_by"]]
    read = [
        f"{names[row['id']]}, seed {test['seed']}: test {word} {with_interval(test['score'])}, accuracy "
        f"{with_interval(test['accuracy'])}"
        for row in found["rows"]
        for test in row["on_test"]
    ]
    if not read:
        return ["The test set has not been read."]
    return [
        "The test set was read for some ensembles of the folds, the mean of their calibrated probabilities. "
        f"{'; '.join(read)}."
    ]


def section(comparison: Comparison) -> Section | None:
    """Scores by fold, thresholds and the networks; None without a cross-validation."""
    found = comparison["cross_validation"]
    if found is None:
        return None
    word = score_words(comparison)[comparison["rank_by"]]
    rows = {row["id"]: row for row in comparison["configurations"]}
    choice = comparison["choice"]
    scores = Table(
        caption=f"Out-of-fold predictions: pooled {word} with its 95 % interval over folds",
        columns=["configuration", "seeds", word, "log-loss", "SD of folds", f"{word} by fold", "chosen"],
        rows=[
            [
                ranked(rows[each["id"]]),
                str(len(rows[each["id"]]["seeds"])),
                with_interval(each["score"]),
                number(each["log_loss"]),
                number(each["sd"]),
                ", ".join(number(network["score"]) for network in each["networks"]),
                "yes" if choice is not None and choice["id"] == each["id"] else "",
            ]
            for each in found["rows"]
        ],
    )
    thresholds = Table(
        caption="Thresholds that the out-of-fold predictions choose, by seed",
        columns=["configuration", *(_RULES[rule] for rule in THRESHOLD_RULES)],
        rows=[
            [
                ranked(rows[each["id"]]),
                *(
                    ", ".join(number(chosen.get(rule)) for chosen in each["thresholds"])
                    for rule in THRESHOLD_RULES
                ),
            ]
            for each in found["rows"]
        ],
    )
    listed = [(rows[each["id"]], network) for each in found["rows"] for network in each["networks"]]
    networks = Table(
        caption=f"{word} of each network on its fold",
        columns=["run", "configuration", "seed", "fold", "images", "epoch", "temperature", word],
        rows=[
            [
                network["name"],
                ranked(row),
                str(network["seed"]),
                str(network["fold"]),
                f"{network['images']:,}",
                str(network["epoch"] or "-"),
                temperature(network["temperature"]),
                number(network["score"]),
            ]
            for row, network in listed
        ],
        links=[
            [appendix.run_link(comparison, network["run_id"], network["run_id"][:8])] for _, network in listed
        ],
    )
    text = (
        "The networks of a cross-validation train on overlapping images, so their scores depend on each "
        "other. The interval and the tests over folds count that (Nadeau and Bengio 2003). Pooled scores "
        "compare images of different networks, so they can differ from the mean of the folds."
    )
    return Section(
        title="Cross-validation",
        text=[text],
        tables=[scores] if many(comparison) else [scores, thresholds],
        details=[Details(summary=networks.caption, tables=[networks])],
    )
