"""What a comparison says in words and numbers, on the page and in the terminal."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from pneumo.comparison.content import (
    Comparison,
    ConfigurationRow,
    Equivalence,
    ImageSet,
    OverlapRow,
    PairRow,
    PairScore,
    RecipeTest,
    Result,
    ScoreInterval,
    SplitSize,
    all_rows,
    many,
    several_findings,
)
from pneumo.evaluation.statistics import LESS_IS_BETTER, LEVEL
from pneumo.names import CLASS_RANKED_BY, OFFICIAL_VAL, OUTSIDE, PATIENT_VAL, PROTOCOLS, RANKED_BY

DASH = "–"  # noqa: RUF001  (an interval's)

SCORE_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "brier": "Brier",
    "log_loss": "log-loss",
    "ece": "ECE",
}


CLASS_SCORE_WORDS = {  # of more than two classes
    **SCORE_WORDS,
    **{
        score: f"macro {SCORE_WORDS[score]}" for score in ("f1", "specificity", "precision", "auroc", "auprc")
    },
    "f1_weighted": "weighted F1",
    "kappa": "kappa",
    "ece": "class ECE",
    "ece_top": "ECE of the call",
}


FINDING_SCORE_WORDS = {  # of several findings
    **{score: f"mean {word}" for score, word in SCORE_WORDS.items()},
    "exact_match": "all findings right",
}


def ranked_by(comparison: Result) -> Sequence[str]:
    """The scores that can rank."""
    return CLASS_RANKED_BY if many(comparison) and not several_findings(comparison) else RANKED_BY


def score_words(comparison: Result) -> Mapping[str, str]:
    """The scores' names."""
    if several_findings(comparison):
        return FINDING_SCORE_WORDS
    return CLASS_SCORE_WORDS if many(comparison) else SCORE_WORDS


def title(comparison: Comparison) -> str:
    about = comparison["about"]
    sweep = f", sweep {about['sweep']}" if about["sweep"] else ""
    count = plural(len(all_rows(comparison)), "configuration")
    if "external" in comparison:
        return f"{count} scored on {comparison['external']['name']}: {about['experiment']}{sweep}"
    return f"{count} compared: {about['experiment']}{sweep}"


def from_outside(comparison: Result) -> bool:
    """Were predictions of any program compared, and not runs?"""
    return any(row["protocol"] == OUTSIDE for row in all_rows(comparison))


def lead(comparison: Comparison) -> str:
    test = comparison["test"]
    runs = sum(run.get("networks", 1) for row in all_rows(comparison) for run in row["runs"])
    patients = (
        plural(test["clusters"], "patient") if not test["images_without_patient"] else "patients not known"
    )
    what = "network" if from_outside(comparison) else "finished run"
    return (
        f"{plural(runs, what)}, scored on the same {test['images']:,} {images_word(comparison)} images "
        f"({patients}): {images_by_class(test)}. {_one_point(comparison)}The primary score is "
        f"{score_words(comparison)[comparison['rank_by']]}; the others are exploratory."
    )


def _one_point(comparison: Comparison) -> str:
    """What one point of accuracy is in images. The mean accuracy of several findings counts no images."""
    if several_findings(comparison):
        return "An image may have several findings, or none. "
    return f"One point of accuracy is {comparison['test']['images'] / 100:.1f} images. "


def images_by_class(counts: ImageSet | SplitSize) -> str:
    """The number of images of each class, in words."""
    if "classes" in counts:
        return ", ".join(f"{count:,} {name}" for name, count in counts["classes"].items())
    return f"{counts['normal']:,} normal, {counts['pneumonia']:,} pneumonia"


FEW_PATIENTS = 40  # of a class; from here on the simulated intervals cover 93 % or more


def _few_words(least: int) -> str:
    if least < 2:
        return "A class of one patient allows no test and hardly an interval: nothing can be concluded."
    return (
        f"In simulated sets with at least {FEW_PATIENTS} patients in each class, the intervals covered the "
        "truth in 93 % or more. With fewer, take intervals and tests as hints."
    )


def _smallest(comparison: Comparison) -> str:
    by_class = comparison["test"]["by_class"]
    if not many(comparison):
        return "The smaller class"
    if several_findings(comparison):
        rarest = min(by_class, key=lambda name: by_class[name])
        return f"The rarer of present and absent {rarest}"
    return f"The smallest class, {min(by_class, key=lambda name: by_class[name])},"


def warnings(comparison: Comparison) -> list[tuple[str, str]]:
    """What a reader must know before the figures, each with a short title."""
    listed = []
    if comparison["about"]["synthetic"]:
        listed.append(("Synthetic images.", "A program made them. They show nothing about patients."))
    unnamed = comparison["test"]["images_without_patient"]
    if unnamed:
        listed.append(
            (
                "Patients are not known.",
                f"{unnamed:,} of {comparison['test']['images']:,} images name no patient. Each of them "
                "counts as a separate patient, so the intervals are too narrow if some show the same one.",
            )
        )
    least = min(comparison["test"]["by_class"].values())
    if least < FEW_PATIENTS:
        listed.append(
            (
                "Few patients.",
                f"{_smallest(comparison)} has {plural(least, 'patient')}. {_few_words(least)}",
            )
        )
    if several_findings(comparison) and (left_out := comparison["findings"]["left_out"]):
        fewest = comparison["findings"]["fewest"]
        listed.append(
            (
                f"{plural(len(left_out), 'finding')} left out.",
                f"Fewer than {fewest} {images_word(comparison)} patients have, or do not have, "
                f"{_listed(list(left_out), most=20)}. Too few patients allow no test, so the means here are "
                "without them. A run's own means in MLflow contain every finding with both values.",
            )
        )
    if "external" in comparison:
        listed += _overlap(comparison["external"]["overlap"])
    if from_outside(comparison):
        listed.append(("Predictions from tables.", _outside_words(comparison)))
    cross = comparison["cross_validation"]
    if cross is not None and over_folds(comparison):
        read = sum(bool(row["on_test"]) for row in cross["rows"])
        listed.append(
            (
                f"The test set was read for {plural(read, 'configuration')}."
                if read
                else "The test set has not been read.",
                "The ranking is about out-of-fold predictions. `pneumo evaluate sweep_id=ID split=test` "
                "scores a sweep's runs on test; the commands for single runs are below. Choose first.",
            )
        )
    elif comparison["scored_on"] == "val":
        listed.append(
            (
                "Validation images.",
                f"{plural(len(comparison['unscored']), 'run')} never scored the test images, so everything "
                "here is about the validation images. Each run's epoch was chosen on them: expect less on "
                f"others. Score the test images: {comparison['unscored'][0]['command']}",
            )
        )
    optimistic = comparison["optimistic"]
    if optimistic:
        listed.append(
            (
                "Optimistic runs.",
                f"{plural(len(optimistic), 'configuration')} chose the epoch on the test images. "
                "The page shows them apart and never ranks them with the others.",
            )
        )
    if comparison["left_out"]:
        count = len(comparison["left_out"])
        listed.append((f"{plural(count, 'run')} left out.", "The table below says why."))
    if many(comparison) and _without_choice(comparison):
        word = score_words(comparison)[comparison["rank_by"]]
        listed.append(
            (
                "No choice by validation.",
                "The validation images of some runs lack a class (or have too few patients with each "
                f"finding), so their {word} is not defined.",
            )
        )
    if _equal_samplers(comparison):
        listed.append(
            (
                "Equal samplers.",
                "sampler=imbalanced without smoothing and sampler=weighted draw the same images in the same "
                "order. No difference between such configurations comes from the sampler.",
            )
        )
    for row in all_rows(comparison):
        mixed = [
            f"{what} ({', '.join(sorted(held))})"
            for what, held in (
                ("commits", {str(run["commit"])[:12] for run in row["runs"] if run["commit"]}),
                ("devices", {run["device"] for run in row["runs"] if run["device"]}),
                ("precisions", {run["precision"] for run in row["runs"] if run["precision"]}),
            )
            if len(held) > 1
        ]
        if mixed:
            listed.append(("Mixed runs.", f"The runs of {row['name']} have different {' and '.join(mixed)}."))
    notes = sorted({note for row in all_rows(comparison) for run in row["runs"] for note in run["notes"]})
    return listed + [("Note.", note) for note in notes]


def _overlap(rows: Sequence[OverlapRow]) -> list[tuple[str, str]]:
    """What a model knows of another set from its training, and what was not compared."""
    listed = [
        ("Not independent.", f"{row['run']} knows {row['words']} from its training (allow_overlap=true).")
        for row in rows
        if row["images"]
    ]
    unchecked = sorted({reason for row in rows for reason in row["unchecked"]})
    if unchecked:
        listed.append(("Overlap not checked.", f"Not compared with the training: {'; '.join(unchecked)}."))
    return listed


def _outside_words(comparison: Comparison) -> str:
    said = (
        "How these models were trained and chosen is not recorded here. If the test images took part in a "
        "choice, such as that of the epoch, the scores are too high."
    )
    if all(row["validation"]["auroc"] is None for row in all_rows(comparison)):
        said += (
            " Without predictions of validation images (split=val) of every model, the page has no threshold "
            "but 0.5, no temperature and no choice by validation."
        )
    return said


def _without_choice(comparison: Comparison) -> bool:
    several = len(comparison["configurations"]) > 1
    there = comparison["scored_on"] == "test" and not from_outside(comparison)
    return several and there and comparison["choice"] is None


def headlines(comparison: Comparison) -> list[str]:
    """The warnings as short as they can be: their titles; a note has none but its text."""
    return [text if title == "Note." else title for title, text in warnings(comparison)]


def _equal_samplers(comparison: Comparison) -> bool:
    """True if both names of one sampler are compared."""
    found = comparison["differences"]
    if "sampler.name" not in found["keys"]:
        return False
    used = {
        (setting["sampler.name"], setting.get("sampler.smoothing"))
        for values in found["values"].values()
        for setting in [found["shared"] | dict(zip(found["keys"], values, strict=True))]
    }
    return ("imbalanced", 0.0) in used and any(name == "weighted" for name, _ in used)


def verdict(
    first: str,
    second: str,
    score: str,
    entry: PairScore,
    equivalence: Equivalence | None = None,
    differ_in: Sequence[str] = (),
    words: Mapping[str, str] = SCORE_WORDS,
) -> str:
    """What a paired difference in `score`, `first` minus `second`, allows one to claim.

    Only the interval and test over seeds and patients say that a configuration is better. Of several settings
    that differ (`differ_in`), the data do not say which one matters. `words` are the scores' names.
    """
    word, recipes = words[score], entry["with_seeds"]
    if recipes is None:
        return _of_networks(first, second, score, entry, word) + _confounded(differ_in)
    if recipes["p"] is None or recipes["p_holm"] is None:
        return (
            f"No test of {word} between {first} and {second}: nothing varies, neither between the "
            f"{'folds' if recipes.get('over_folds') else 'seeds'} nor over the patients (difference "
            f"{entry['difference']:+.4f})."
        )
    chance = "folds" if recipes.get("over_folds") else "seeds and patients"
    over = (
        f"{entry['difference']:+.4f}, 95 % interval over {chance} {recipes['low']:+.4f} to "
        f"{recipes['high']:+.4f}; p {p_text(recipes['p_holm'])} after Holm"
    )
    if claimed(entry):
        better, worse = better_first(first, second, score, entry)
        return (
            f"{better} has {higher(score)} {word} than {worse} by {abs(entry['difference']):.4f} "
            f"({first} minus {second}: {over}).{_confounded(differ_in)}"
        )
    if equivalence is None:
        return f"No difference in {word} can be claimed between {first} and {second} ({over})."
    if equivalent(equivalence):
        return (
            f"{first} and {second} are equivalent in {word} within the margin of {equivalence['margin']:g} "
            f"({over}; equivalence p {p_text(equivalence['p_holm'])} after Holm)."
        )
    return f"No difference in {word} can be claimed between {first} and {second} ({over}). " + _power(
        equivalence, chance
    )


def _confounded(differ_in: Sequence[str]) -> str:
    if len(differ_in) < 2:
        return ""
    return f" They differ in {_listed(differ_in, most=9)}; the data do not say which of these matters."


def _power(equivalence: Equivalence, chance: str) -> str:
    seeds, margin = equivalence["seeds_needed"], f"{equivalence['margin']:g}"
    needed = (
        f"about {seeds} seeds a side would be needed to show {margin}"
        if seeds
        else f"to show {margin}, more patients are needed; seeds alone do not suffice"
    )
    can = f"{equivalence['detectable']:.4f}" if equivalence["detectable"] is not None else "no difference"
    if chance == "folds":
        return f"Cannot tell: these folds can show differences of {can} or more."
    return f"Cannot tell: these seeds and patients can show differences of {can} or more; {needed}."


def _of_networks(first: str, second: str, score: str, entry: PairScore, word: str) -> str:
    """A side has one seed, so the sentence is about the trained networks, never about configurations."""
    if entry["p"] is None or entry["p_holm"] is None:
        return (
            f"No test of {word} between the trained networks of {first} and {second}: nothing varies in the "
            f"draws of patients (difference {entry['difference']:+.4f})."
        )
    over = (
        f"{first} minus {second}: {entry['difference']:+.4f}, 95 % interval over patients "
        f"{entry['low']:+.4f} to {entry['high']:+.4f}; p {p_text(entry['p_holm'])} after Holm"
    )
    if not networks_differ(entry):
        return (
            f"These two trained networks, of {first} and {second}, cannot be told apart in {word} ({over}). "
            f"{ONE_SEED}"
        )
    better, worse = better_first(first, second, score, entry)
    return (
        f"These two trained networks differ in {word}: that of {better} has {higher(score)} one than that of "
        f"{worse} on these patients ({over}). {ONE_SEED}"
    )


ONE_SEED = "A side has one seed, so nothing follows about the configurations."


def claimed(entry: PairScore) -> bool:
    """May a configuration be called better? By the test over seeds and patients, after Holm."""
    recipes = entry["with_seeds"]
    return recipes is not None and recipes["p_holm"] is not None and recipes["p_holm"] < 1 - LEVEL


def networks_differ(entry: PairScore) -> bool:
    """Do these trained networks differ on patients like these, after Holm?"""
    return entry["p_holm"] is not None and entry["p_holm"] < 1 - LEVEL


def equivalent(entry: Equivalence | None) -> bool:
    return entry is not None and entry["p_holm"] is not None and entry["p_holm"] < 1 - LEVEL


def higher(score: str) -> str:
    return "a lower" if score in LESS_IS_BETTER else "a higher"


def better_first(first: str, second: str, score: str, entry: PairScore) -> tuple[str, str]:
    """`first` and `second`, the better one first."""
    return (first, second) if (entry["difference"] > 0) != (score in LESS_IS_BETTER) else (second, first)


def answer(comparison: Comparison) -> str:
    """What a hurried reader takes away: validation's choice, its score, and what differs."""
    ranked, score, choice = comparison["configurations"], comparison["rank_by"], comparison["choice"]
    if not ranked:
        return "Every run chose its epoch on the test images, so there is nothing to rank."
    row = next((row for row in ranked if choice and row["id"] == choice["id"]), ranked[0])
    where = f"{images_word(comparison)} {score_words(comparison)[score]} {compact(row['scores'][score])}"
    if len(ranked) == 1:
        return f"One configuration, {row['name']}: {where}. There is nothing to compare it with."
    if choice is None:
        return f"First on the {images_word(comparison)} images: {row['name']}, {where}. " + _shown(
            comparison, row
        )
    tied = f" (tied with {plural(len(choice['tied']), 'other')})" if choice["tied"] else ""
    return f"Best by {chosen_by(comparison)}{tied}: {row['name']}, {where}. " + _shown(comparison, row)


def _shown(comparison: Comparison, row: ConfigurationRow) -> str:
    """Which differences in the primary score are shown, in one sentence about `row` where it takes part."""
    ranked, pairs, score = comparison["configurations"], comparison["pairs"], comparison["rank_by"]
    names = {each["id"]: each["name"] for each in ranked}
    known = [pair for pair in pairs if claimed(pair["scores"][score])]
    word = score_words(comparison)[score]
    if not known:
        which = "the two" if len(ranked) == 2 else f"the {len(ranked)} configurations"
        if pairs and all(equivalent(pair["equivalence"]) for pair in pairs):
            return f"In {word}, {which} are equivalent within {comparison['margin']:g}."
        single = 0 if over_folds(comparison) else sum(len(each["seeds"]) == 1 for each in ranked)
        seeds = f"; {plural(single, 'configuration')} with one seed" if single else ""
        if single == len(ranked):
            seeds = "; one seed each"
        return f"No difference between {which} can be shown{seeds}."
    beaten = _beaten(pairs, score, claimed)
    above = [names[best] for best, worse in beaten.items() if row["id"] in worse]
    if above:
        return f"{_listed(above)} {'has' if len(above) == 1 else 'have'} {higher(score)} {word} than it."
    if mine := [names[id] for id in beaten.get(row["id"], [])]:
        rest = [each["name"] for each in ranked if each is not row and each["name"] not in mine]
        more = f"; against {_listed(rest, most=2)}, no difference can be shown" if rest else ""
        than = "all others" if not rest and len(mine) > 1 else _listed(mine, most=2)
        return f"It has {higher(score)} {word} than {than}{more}."
    return f"Differences in {word} are shown in {len(known)} of {len(pairs)} pairs, none of them with it."


def verdicts(comparison: Comparison) -> list[str]:
    """What may be claimed: validation's choice, the first one's luck, and by score who beats whom."""
    ranked, pairs = comparison["configurations"], comparison["pairs"]
    if not pairs:
        return [answer(comparison)]
    commands = [row["more_seeds"] for row in ranked if "more_seeds" in row]
    return [
        *_choice(comparison),
        *_luck(comparison),
        *_primary(comparison),
        *_exploratory(comparison),
        *(f"Add seeds: {command}" for command in commands),
    ]


def _choice(comparison: Comparison) -> list[str]:
    choice, score = comparison["choice"], comparison["rank_by"]
    if choice is None:
        return []
    rows = {row["id"]: row for row in comparison["configurations"]}
    row, word = rows[choice["id"]], score_words(comparison)[score]
    if comparison["cross_validation"] is not None:
        sentence = (
            f"Out-of-fold predictions choose {row['name']} ({word} {number(choice['score'])}, log-loss "
            f"{number(choice['log_loss'])})."
        )
        if not over_folds(comparison):
            sentence += (
                f" {images_word(comparison).capitalize()} {word} {with_interval(row['scores'][score])}."
            )
        if choice["tied"]:
            sentence += f" They cannot tell it from {_listed([rows[id]['name'] for id in choice['tied']])}."
        return [sentence]
    sentence = (
        f"Validation prefers {row['name']} (validation {word} {number(choice['score'])}): "
        f"{images_word(comparison)} {word} "
        f"{with_interval(row['scores'][score])}."
    )
    if choice["tied"]:
        sentence += f" Validation cannot tell it from {_listed([rows[id]['name'] for id in choice['tied']])}."
    return [sentence]


def _luck(comparison: Comparison) -> list[str]:
    found, ranked, score = comparison["optimism"], comparison["configurations"], comparison["rank_by"]
    if found is None:
        return []
    word, where = score_words(comparison)[score], images_word(comparison)
    start = (
        f"First on the {where} images, which also picked it from {len(ranked)}: {ranked[0]['name']}, {word} "
        f"{number(ranked[0]['scores'][score]['value'])}, {found['above_mean']:.4f} above the mean of all."
    )
    if found["value"] is None or found["corrected"] is None:
        return [f"{start} There are too few patients to say how much of that is luck."]
    alone = len(ranked[0]["seeds"]) == 1 and not over_folds(comparison)
    seeds = " Chance in training comes on top: it has one seed." if alone else ""
    return [
        f"{start} About {found['value']:.4f} of it is luck with these patients, which leaves "
        f"{number(found['corrected'])}.{seeds}"
    ]


MOST_SENTENCES = 6  # pairs with a sentence each; of more, the claims are gathered


def _primary(comparison: Comparison) -> list[str]:
    pairs, score = comparison["pairs"], comparison["rank_by"]
    word = score_words(comparison)[score]
    if len(pairs) <= MOST_SENTENCES:
        return [pair["verdicts"][score] for pair in pairs]
    names = {row["id"]: row["name"] for row in comparison["configurations"]}
    better = [
        f"{names[best]} has {higher(score)} {word} than {_listed([names[id] for id in beaten])}."
        for best, beaten in _beaten(pairs, score, claimed).items()
    ]
    networks = [
        f"The trained network of {names[best]} has {higher(score)} {word} than "
        f"{_listed([names[id] for id in beaten], 'network')} on these patients."
        for best, beaten in _beaten(pairs, score, _only_networks).items()
    ]
    sentences = better + networks[:MOST_SENTENCES]
    if len(networks) > MOST_SENTENCES:
        sentences.append(f"So it is with the networks of {len(networks) - MOST_SENTENCES} more.")
    if networks:
        sentences.append("These have one seed on a side, so nothing follows about the configurations.")
    known = [
        pair for pair in pairs if claimed(pair["scores"][score]) or _only_networks(pair["scores"][score])
    ]
    confounded = sum(len(pair["differ_in"]) > 1 for pair in known)
    if confounded:
        sentences.append(
            f"In {confounded} of these {len(known)} pairs several settings differ, and the data do not say "
            "which one matters."
        )
    rest = [pair for pair in pairs if not claimed(pair["scores"][score])]
    single = sum(pair["scores"][score]["with_seeds"] is None for pair in rest)
    same = sum(equivalent(pair["equivalence"]) for pair in rest)
    if rest:
        counted = [f"{single} of them have one seed on a side" if single else ""]
        counted.append(f"{same} are equivalent within {comparison['margin']:g}" if same else "")
        said = ", ".join(text for text in counted if text)
        sentences.append(
            f"No difference in {word} can be claimed in {len(rest)} of {len(pairs)} pairs of "
            f"configurations{': ' + said if said else ''}."
        )
    return sentences


def _exploratory(comparison: Comparison) -> list[str]:
    """Who beats whom in the scores that were not declared, by the same test; equal lists share a sentence."""
    names = {row["id"]: row["name"] for row in comparison["configurations"]}
    pairs, primary = comparison["pairs"], comparison["rank_by"]
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for score in ranked_by(comparison):
        if score != primary:
            for best, beaten in _beaten(pairs, score, claimed).items():
                words = f"{higher(score)} {score_words(comparison)[score]}"
                found.setdefault((best, tuple(beaten)), []).append(words)
    return [
        f"Exploratory: {names[best]} has {_listed(words, most=9)} than "
        f"{_listed([names[id] for id in beaten])}."
        for (best, beaten), words in found.items()
    ]


def _beaten(pairs: Sequence[PairRow], score: str, known: Callable[[PairScore], bool]) -> dict[str, list[str]]:
    """By id, those that are worse in `score` in a pair whose difference is `known`."""
    beaten: dict[str, list[str]] = {}
    for pair in pairs:
        entry = pair["scores"][score]
        if known(entry):
            better, worse = better_first(pair["first"], pair["second"], score, entry)
            beaten.setdefault(better, []).append(worse)
    return beaten


def _only_networks(entry: PairScore) -> bool:
    return entry["with_seeds"] is None and networks_differ(entry)


def _listed(names: Sequence[str], what: str = "", most: int = 4) -> str:
    """Names in words: a, b and c; of more than `most`, the rest are counted. `what` they are of, if given."""
    start = f"the {what}{'s' if len(names) > 1 else ''} of " if what else ""
    shown = [start + names[0], *names[1:most]]
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def over_folds(comparison: Result) -> bool:
    """Are cross-validations compared on their out-of-fold predictions?"""
    return comparison["cross_validation"] is not None and comparison["scored_on"] == "val"


def chosen_by(comparison: Result) -> str:
    """What chooses the configuration."""
    return "validation" if comparison["cross_validation"] is None else "out-of-fold predictions"


def images_word(comparison: Result) -> str:
    """What the runs were scored on: test images, another set's, validation images, or all outside test."""
    if "external" in comparison:
        return comparison["external"]["name"]
    if over_folds(comparison):
        return "out-of-fold"
    return "validation" if comparison["scored_on"] == "val" else "test"


KAGGLE_SETS = ("chest_xray", "kermany3")  # the same images


def limits(comparison: Comparison) -> list[str]:
    """What a reader might conclude from the page, and should not."""
    test, rows, ranked = comparison["test"], all_rows(comparison), comparison["configurations"]
    sentences = [
        f"Small differences: the intervals are as wide as {test['clusters']:,} patients make them. A "
        "difference smaller than its interval may be real; this comparison cannot show it.",
        "The winner's score on new patients: these images also picked the first of "
        f"{plural(len(ranked), 'configuration')}, so its score is partly luck. Expect a little less.",
        "Another training: a configuration's interval describes its trained networks on new patients like "
        "these. How much another training would differ is the SD over seeds, shown separately. From three "
        "seeds it is itself uncertain. Only the paired differences over "
        f"{'folds' if over_folds(comparison) else 'seeds and patients'} count both.",
        "Patients from other places, devices, ages or diseases than these: nothing was tested on them.",
        "Whether doctors decide better with such a model: no reader took part.",
        "Explanations: no map of a network was judged.",
        "Fairness by age, sex or origin: "
        + (
            "the page shows the groups of one configuration; where no gap is shown, there may be one."
            if "subgroups" in comparison.get("external", {})
            else "no groups of patients were compared."
        ),
    ]
    single = sum(len(row["seeds"]) == 1 for row in rows)
    if single and not over_folds(comparison):
        sentences.append(f"Chance in training of {plural(single, 'configuration')} with one seed each.")
    if comparison["about"]["data"] in KAGGLE_SETS and not comparison["about"]["synthetic"]:
        sentences.append(
            "Other hospitals: the public set comes from one centre and shows children of one to five years. "
            "Its normal and pneumonia images also differ in JPEG quality and aspect ratio. A model can learn "
            "these instead of the disease."
        )
        protocols = {row["protocol"] for row in rows}
        if PATIENT_VAL in protocols:
            sentences.append(
                "Well-chosen thresholds: validation patients are carved from the training folder, where "
                "every model scores close to the maximum. Thresholds and temperatures fitted there need not "
                "suit the test images."
            )
        if OFFICIAL_VAL in protocols:
            sentences.append(
                "Well-chosen epochs and thresholds: the set's own validation folder has few images, and "
                "nearly every epoch scores the maximum on them."
            )
    if "trainer.epochs" in comparison["differences"]["keys"]:
        sentences.append("Equal effort: the configurations were trained for different numbers of epochs.")
    return sentences


def forest_scores(comparison: Result) -> tuple[str, str]:
    """The scores of the forest plot: the primary one and a companion."""
    first = comparison["rank_by"]
    return first, "accuracy" if first == "auroc" else "auroc"


MOST_DIFFERENCES = 15  # pairs in the figure


def shown_pairs(comparison: Comparison) -> list[PairRow]:
    """The pairs in the figure of differences: the largest differences in the primary score."""
    score = comparison["rank_by"]
    order = sorted(comparison["pairs"], key=lambda pair: -abs(pair["scores"][score]["difference"]))
    return order[:MOST_DIFFERENCES]


MOST_PAIRS = 45  # ten configurations; of more, the tables show only the pairs with the first


def pairs_in_tables(comparison: Comparison) -> list[PairRow]:
    """The pairs that the page's tables show: all, or of many those with the first configuration."""
    pairs = comparison["pairs"]
    return pairs if len(pairs) <= MOST_PAIRS else [pair for pair in pairs if pair["first"] == "c1"]


def difference_columns(seeds: bool = True) -> list[str]:
    """The titles of `difference_cells`."""
    if not seeds:
        return ["difference", "over patients", "p, Holm"]
    decides = ["over seeds and patients", "p, Holm"]
    return ["difference", *decides, "over patients alone", "p, Holm (patients alone)"]


def difference_cells(entry: PairScore, seeds: bool = True) -> list[str]:
    """A paired difference in a table, with its intervals and tests; without `seeds`, over patients only."""
    cells = [f"{entry['difference']:+.4f}"]
    if seeds:
        recipes = entry["with_seeds"]
        cells.append(difference_interval(recipes) if recipes else "one seed")
        cells.append(p_text(recipes["p_holm"]) if recipes else "-")
    return [*cells, difference_interval(entry), p_text(entry["p_holm"])]


def caption(figure: str, comparison: Comparison) -> str:
    score, where = score_words(comparison)[comparison["rank_by"]], images_word(comparison)
    shown, count = len(shown_pairs(comparison)), len(comparison["pairs"])
    which = f"The {shown} largest of {count} paired" if shown < count else "Paired"
    marks = (
        ["dots: means of the seeds", "strokes: single seeds"]
        if any(len(row["seeds"]) > 1 for row in all_rows(comparison))
        else []
    )
    marks += ["diamonds: averaged networks"] if comparison["ensembles"] else []
    marks += ["hollow circles: optimistic runs"] if comparison["optimistic"] else []
    legend = "; ".join(marks)
    several = several_findings(comparison)
    parts = "findings" if several else "classes"
    mean = f", the mean over the {parts}" if many(comparison) else ""
    return {
        "forest": f"95 % intervals over patients; a difference has its own interval (Pairs). "
        f"{legend[:1].upper()}{legend[1:]}".strip(". ")
        + ".",
        "differences": f"{which} differences in {score}, 95 % intervals over "
        f"{'folds' if over_folds(comparison) else 'seeds and patients'} (grey: over "
        "patients alone). Filled: a difference is claimed.",
        "roc": f"ROC on the {where} images{mean}, with 95 % bands.",
        "precision_recall": f"Precision against recall on the {where} images{mean}, with 95 % bands.",
        "calibration": _calibration_caption(comparison),
        "classes": f"AUROC of each {'finding' if several else 'class against the rest'} on the {where} "
        "images, with 95 % intervals over patients.",
        "decision_curve": f"Net benefit on the {where} images over threshold probabilities.",
        "curves_accuracy": "Accuracy by epoch.",
        "curves_f1": f"{'Mean' if several else 'Macro'} F1 by epoch."
        if many(comparison)
        else "F1 of pneumonia by epoch.",
        "curves_loss": f"Loss ({'binary ' if several else ''}cross-entropy, nats) by epoch.",
        "confusion_test": f"Confusion matrices of the {where} images.",
        "confusion_validation": "Confusion matrices of the validation images.",
        "class_distribution": "Images by split and class.",
    }[figure]


def _calibration_caption(comparison: Comparison) -> str:
    if several_findings(comparison):
        return "Observed share of images with a finding against its predicted probability, all findings."
    if many(comparison):
        return "Share of right calls against the called class's probability."
    return "Observed share of pneumonia against predicted probability."


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def temperature(value: float | list[float] | None) -> str:
    """A network's temperature; of several findings, the range of theirs."""
    if isinstance(value, list):
        return f"{number(min(value), 3)} to {number(max(value), 3)}"
    return number(value, 3)


def with_interval(entry: ScoreInterval) -> str:
    if not math.isfinite(entry["low"]):
        return f"{number(entry['value'])} (no interval)"
    low, high = number(entry["low"], 3), number(entry["high"], 3)
    return f"{number(entry['value'])} ({low}{DASH}{high})"


def compact(entry: ScoreInterval) -> str:
    """A score with its interval as short as it can be read: .971 (.955 to .982), with a dash."""
    if not math.isfinite(entry["low"]):
        return f"{short_number(entry['value'])} (no interval)"
    return f"{short_number(entry['value'])} ({short_number(entry['low'])}{DASH}{short_number(entry['high'])})"


def short_number(value: float | None) -> str:
    """Three decimals without the zero before the point."""
    return re.sub(r"^(-?)0\.", r"\1.", number(value, 3))


def setting(value: object) -> str:
    """A setting's value as one types it on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def difference_interval(entry: PairScore | RecipeTest) -> str:
    if not math.isfinite(entry["low"]):
        return "no interval"
    return f"{entry['low']:+.4f} to {entry['high']:+.4f}"


def p_text(value: float | None) -> str:
    if value is None:
        return "no test"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def scaled(value: float | None, unit: float, name: str) -> str:
    return "-" if value is None else f"{value / unit:.2f} {name}".strip()


def ranked(row: ConfigurationRow) -> str:
    return f"{row['rank']}. {row['name']}" if row["rank"] else f"{row['name']} (optimistic)"


def protocol_words(protocol: str) -> str:
    return {PATIENT_VAL: "validation patients", OFFICIAL_VAL: "the set's own validation images"}.get(
        protocol, {**PROTOCOLS, OUTSIDE: "not known"}.get(protocol, protocol)
    )


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
