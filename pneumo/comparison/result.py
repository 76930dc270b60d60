"""What a set of finished runs allows one to claim about their configurations. Arrays in, one plain dict out.

That dict (comparison.json) holds everything the page shows, so that others can recompute it.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np

import pneumo
from pneumo import UserError, one_of
from pneumo.comparison import choice, cross_validation, mistakes, pairs, testable_findings
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.configuration import Configuration
from pneumo.comparison.content import (
    About,
    Bootstrap,
    Decision,
    Differences,
    ImageSet,
    Result,
)
from pneumo.comparison.finding_configuration import configuration_of
from pneumo.comparison.words import setting
from pneumo.evaluation import (
    calibration,
    class_statistics,
    contrasts,
    decisions,
    finding_statistics,
    metrics,
    statistics,
)
from pneumo.evaluation.predictions import SplitResult
from pneumo.fingerprint import value_of
from pneumo.names import CLASS_RANKED_BY, RANKED_BY

MANY_IMAGES = 20_000
CURVES = 6  # configurations drawn over one another; more cannot be told apart
RANK_BY = "auroc"
MARGIN = 0.02  # a difference in the score that ranks, up to which configurations are equivalent
SOFTWARE = ("torch", "numpy", "scipy", "scikit-learn", "statsmodels")


def build(
    runs: Sequence[Candidate],
    *,
    rank_by: str = RANK_BY,
    margin: float = MARGIN,
    draws: int = statistics.DRAWS,
    seed: int = 0,
) -> Result:
    """Compare `runs`, which passed `candidates.sort_out`. Raises UserError if there are none."""
    if not runs:
        one_of("rank_by", rank_by, RANKED_BY)
        raise UserError("there are no finished runs to compare.")
    several = runs[0].test.multilabel
    left_out = None
    if several:
        runs, left_out = testable_findings.only(runs)
    test = runs[0].test
    on_val = runs[0].on_validation
    one_of("rank_by", rank_by, CLASS_RANKED_BY if test.many and not several else RANKED_BY)
    if not several and len(np.unique(test.labels)) < 2:
        raise UserError(
            f"the {'validation' if on_val else 'test'} images are all of one class: nothing can be "
            "compared on "
            "them."
        )
    _refuse_a_missing_class(test, on_val)
    weights = class_statistics.resample(test.labels, test.patients, len(test.class_names), draws, seed)
    groups = _groups(runs)
    configurations: list[Configuration] = []
    for optimistic in (False, True):  # shown apart, so named apart
        mine = [group for group in groups if group[0].optimistic == optimistic]
        names = _names([group[0].config for group in mine])
        make = partial(configuration_of(test), test=test, weights=weights, seed=seed)
        with ThreadPoolExecutor(_threads(test)) as threads:
            configurations += threads.map(make, names, mine)
    configurations.sort(key=lambda each: (-each.value(rank_by), each.value("log_loss")))
    ranked = [configuration for configuration in configurations if not configuration.optimistic]
    apart = [configuration for configuration in configurations if configuration.optimistic]
    for place, configuration in enumerate(ranked + apart, start=1):
        configuration.row["id"] = f"c{place}"
        configuration.row["rank"] = None if configuration.optimistic else place
    for better, worse in pairwise(ranked):
        if np.array_equal(better.probabilities, worse.probabilities):
            worse.row["rank"] = better.row["rank"]
    with ThreadPoolExecutor(_threads(test)) as threads:
        list(threads.map(lambda each: each.add_curves(test, weights), (ranked + apart)[:CURVES]))
    ensembles = _ensembles(ranked, test, weights, seed)
    for place, ensemble in enumerate(ensembles, start=1):
        ensemble.row["id"] = f"e{place}"
    folded = all(run.parts for run in runs)  # then validation is every image outside test
    images = _image_set(test)
    least = min(images["by_class"].values())
    modules: list[ModuleType] = [statistics, contrasts, calibration, decisions]
    if test.many:
        modules = [statistics, class_statistics, contrasts, calibration]
    if several:
        modules[1] = finding_statistics
    bootstrap: Bootstrap = {
        "draws": draws,
        "seed": seed,
        "scheme": "\n".join(module.__doc__ or "" for module in modules),
        "level": statistics.LEVEL,
    }
    found: Result = {
        "rank_by": rank_by,
        "margin": margin,
        "scored_on": "val" if on_val else "test",
        "bootstrap": bootstrap,
        "test": images,
        "configurations": [configuration.row for configuration in ranked],
        "optimistic": [configuration.row for configuration in apart],
        "ensembles": [ensemble.row for ensemble in ensembles],
        "pairs": pairs.compare(ranked, test.labels, least, rank_by, margin, CHANCE),
        "ensemble_pairs": pairs.compare(ensembles, test.labels, least, rank_by, margin),
        "choice": None
        if (on_val and not folded) or len(ranked) < 2
        else choice.by_validation(ranked, rank_by, draws, seed),
        "cross_validation": cross_validation.summary(ranked, rank_by, draws, seed),
        "optimism": choice.optimism(ranked, test, weights, rank_by),
        "decision": None if test.many else _decision(test),
        "differences": _differences(ranked + apart),
        "mistakes": mistakes.of_first(ranked, test) if ranked else [],
    }
    if test.many:
        found["class_names"], bootstrap["kept"] = list(test.class_names), weights.shape[1]
    if left_out is not None:
        found["findings"] = left_out
    return found


def _threads(test: SplitResult) -> int:
    """How many configurations are scored at once: of few images, numpy leaves the other threads no time."""
    return 1 if len(test.paths) < MANY_IMAGES else len(os.sched_getaffinity(0))


def _refuse_a_missing_class(test: SplitResult, on_val: bool) -> None:
    """Raise UserError for images that lack one of more than two classes: its scores are not defined."""
    if not test.many or test.multilabel:
        return
    missing = [name for label, name in enumerate(test.class_names) if not (test.labels == label).any()]
    if missing:
        raise UserError(
            f"no {'validation' if on_val else 'test'} image has the class {', '.join(missing)}: its scores, "
            "and the means over the classes, are not defined. Compare runs that were scored on images of "
            "each class (without trainer.limit_batches)."
        )


def _decision(test: SplitResult) -> Decision:
    return {
        "thresholds": decisions.THRESHOLDS.tolist(),
        "treat_all": decisions.treat_all(test.labels).tolist(),
        "prevalence": float(np.mean(test.labels)),
    }


def about(runs: Sequence[Candidate], *, experiment: str, sweep: str | None, command: str) -> About:
    """Where `runs` came from, and what compared them: `command` and the software."""
    return {
        "experiment": experiment,
        "sweep": sweep,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": pneumo.__version__,
        "command": command,
        "software": {name: version(name) for name in SOFTWARE},
        "commits": sorted({str(run.commit)[:12] for run in runs if run.commit}),
        "digest": runs[0].digest,
        "data": runs[0].data_name,
        "synthetic": any(run.synthetic for run in runs),
        "external": sorted({name for run in runs for name in run.external_sets}),
    }


CHANCE = ("data.split_seed",)  # as the seed: runs that differ in it are of one configuration


def _groups(runs: Sequence[Candidate]) -> list[list[Candidate]]:
    """Runs of one configuration and protocol, which differ by the seeds of training and split alone.

    Runs that were trained on other images are other configurations, told apart by `data.digest`.
    """
    groups: dict[tuple[Any, ...], list[Candidate]] = {}
    for run in sorted(runs, key=lambda run: (run.started_ms, run.name)):
        shown = {key: value for key, value in run.config.items() if key not in CHANCE}
        mark = (run.protocol, *sorted((key, repr(value)) for key, value in shown.items()))
        groups.setdefault(mark, []).append(run)
    apart: list[list[Candidate]] = []
    for group in groups.values():
        pools = {run.pool for run in group if run.pool}
        digests: dict[Any, set[str]] = {}
        for run in group:
            digests.setdefault(run.config.get("data.split_seed"), set()).add(run.digest)
        # Without a record of the training images: one split seed that gives two digests shows other images.
        if len(pools) < 2 and all(len(found) < 2 for found in digests.values()):
            apart.append(group)
            continue
        parts: dict[str, list[Candidate]] = {}
        for run in group:
            run.config["data.digest"] = (run.pool or run.digest)[:12]
            parts.setdefault(run.config["data.digest"], []).append(run)
        apart += parts.values()
    return apart


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each configuration by the fewest values that distinguish it from all the others, else by its model."""
    left_out = ("trainer.select_on", *CHANCE)
    configs = [{k: v for k, v in config.items() if k not in left_out} for config in configs]
    first = ("model.name", "sampler.name", "augment.name", "data.image_size", "trainer.epochs")
    keys = [*first, *sorted({key for config in configs for key in config} - set(first))]
    names: list[tuple[str, ...]] = [()] * len(configs)
    for key in keys:
        if len(set(names)) == len(names):
            break
        values = [repr(value_of(config, key)) for config in configs]
        finer = len({(name, value) for name, value in zip(names, values, strict=True)}) > len(set(names))
        if finer:
            texts = _short_texts([value_of(config, key) for config in configs])
            short = key.rpartition(".")[2]
            form = {"name": "{}", "image_size": "{} px", "epochs": "{} epochs"}.get(short, f"{short}={{}}")
            names = [(*name, form.format(text)) for name, text in zip(names, texts, strict=True)]
    models = [str(config.get("model.name", "?")) for config in configs]
    full = [", ".join(name) or model for name, model in zip(names, models, strict=True)]
    seen: Counter[str] = Counter()
    for index, name in enumerate(full):  # the same configuration under two protocols
        seen[name] += 1
        full[index] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return full


def _short_texts(values: Sequence[Any]) -> list[str]:
    """The values as typed; long numbers with four digits, if these still tell them apart."""
    texts = [setting(value) for value in values]
    rounded = [
        f"{value:.4g}" if isinstance(value, float) and len(text) > 8 else text
        for value, text in zip(values, texts, strict=True)
    ]
    return rounded if len(set(rounded)) == len(set(texts)) else texts


def _ensembles(
    ranked: Sequence[Configuration], test: SplitResult, weights: statistics.Weights, seed: int
) -> list[Configuration]:
    """Each configuration's seeds averaged, and all ranked runs averaged."""
    kind = configuration_of(test)
    ensembles = [
        kind(
            f"{each.name}: its {len(each.runs)} seeds averaged",
            each.runs,
            test,
            weights,
            average=True,
            seed=seed,
        )
        for each in ranked
        if len(each.runs) > 1
    ]
    if len(ranked) > 1:
        runs = [run for each in ranked for run in each.runs]
        name = f"all {len(runs)} runs averaged"
        ensembles.append(kind(name, runs, test, weights, average=True, seed=seed))
    return ensembles


def _differences(configurations: Sequence[Configuration]) -> Differences:
    configs = [configuration.runs[0].config for configuration in configurations]
    keys = sorted({key for config in configs for key in config} - _pooled(configurations))
    differ = [key for key in keys if len({repr(value_of(config, key)) for config in configs}) > 1]
    return {
        "keys": differ,
        "values": {
            configuration.row["id"]: [value_of(config, key) for key in differ]
            for configuration, config in zip(configurations, configs, strict=True)
        },
        "shared": {key: value_of(configs[0], key) for key in keys if key not in differ},
    }


def _pooled(configurations: Sequence[Configuration]) -> set[str]:
    """The settings in which runs of one configuration differ."""
    return {
        key
        for key in CHANCE
        for configuration in configurations
        if len({repr(run.config.get(key)) for run in configuration.runs}) > 1
    }


def _image_set(test: SplitResult) -> ImageSet:
    if test.multilabel:
        found = finding_statistics.FindingCounts.of(test.labels, test.patients)
        rarer = [one.smaller_class for one in found.by_finding]
        return {
            "images": len(test.paths),
            "classes": dict(zip(test.class_names, (test.labels == 1).sum(axis=0).tolist(), strict=True)),
            "patients": test.patient_count,
            "by_class": dict(zip(test.class_names, rarer, strict=True)),
            "clusters": found.all,
            "images_without_patient": sum(patient is None for patient in test.patients),
            "subtypes": {},
        }
    if test.many:
        classes = len(test.class_names)
        known = class_statistics.ClassCounts.of(test.labels, test.patients, classes)
        images = np.bincount(test.labels, minlength=classes).tolist()
        return {
            "images": len(test.paths),
            "classes": dict(zip(test.class_names, images, strict=True)),
            "patients": test.patient_count,
            "by_class": dict(zip(test.class_names, known.by_class, strict=True)),
            "clusters": known.all,
            "images_without_patient": sum(patient is None for patient in test.patients),
            "subtypes": {},
        }
    masks = metrics.by_subtype(test.patients, test.labels)
    counts = statistics.PatientCounts.of(test.labels, test.patients)
    return {
        "images": len(test.paths),
        "normal": int((test.labels == 0).sum()),
        "pneumonia": int((test.labels == 1).sum()),
        "patients": test.patient_count,
        "by_class": {"normal": counts.normal, "pneumonia": counts.ill},
        "clusters": len(statistics.clusters(test.labels, test.patients)[0]),
        "images_without_patient": sum(patient is None for patient in test.patients),
        "subtypes": {kind: int((mask & (test.labels == 1)).sum()) for kind, mask in masks.items()},
    }
