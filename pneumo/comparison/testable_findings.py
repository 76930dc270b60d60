"""Of runs that look for several findings, those findings that have patients enough for a test."""

from collections.abc import Sequence
from dataclasses import replace

from pneumo import UserError
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import FindingSet
from pneumo.evaluation import finding_statistics


def only(runs: Sequence[Candidate]) -> tuple[list[Candidate], FindingSet]:
    """The runs with the findings that have patients enough, and what is left out. UserError if none has.

    Of a run's validation images, labels of a finding that has too few patients there become unknown: it then
    takes no part in what validation chooses. That must be so for all runs, or their means would differ.
    """
    test = runs[0].test
    kept = finding_statistics.testable(test)
    fewest = finding_statistics.FEWEST_PATIENTS
    rarer = {
        name: finding_statistics.counts_of_finding(column, test.patients).smaller_class
        for name, column in zip(test.class_names, test.labels.T, strict=True)
    }
    if not kept:
        which = "validation" if runs[0].on_validation else "test"
        raise UserError(
            f"no finding can be compared: of each, fewer than {fewest} {which} patients have it, or do not. "
            "Score the runs on more images (without trainer.limit_batches)."
        )
    vals = {run.run_id: finding_statistics.of_columns(run.val, kept) for run in runs}
    told = set.intersection(*({*finding_statistics.testable(val)} for val in vals.values()))
    found = []
    for run in runs:
        val = finding_statistics.known_only(vals[run.run_id], sorted(told))
        found.append(
            replace(
                run,
                test=val if run.on_validation else finding_statistics.of_columns(run.test, kept),
                val=val,
                ensemble=run.ensemble and finding_statistics.of_columns(run.ensemble, kept),
                parts=[_of_columns(part, kept) for part in run.parts],
            )
        )
    names = [test.class_names[k] for k in kept]
    return found, {
        "fewest": fewest,
        "left_out": {name: count for name, count in rarer.items() if name not in names},
    }


def _of_columns(part: Candidate, columns: Sequence[int]) -> Candidate:
    """A fold's run with these findings alone, and their temperatures."""
    val = finding_statistics.of_columns(part.val, columns)
    heats = part.temperature
    return replace(
        part,
        val=val,
        test=val if part.on_validation else finding_statistics.of_columns(part.test, columns),
        temperature=[heats[k] for k in columns] if isinstance(heats, list) else heats,
    )
