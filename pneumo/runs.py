"""python -m pneumo.runs status|sync|reproduce|register|export: what to do with runs once made."""

import functools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pneumo import UserError, config, fingerprint
from pneumo.config import Config
from pneumo.names import MEASURED
from pneumo.sweep import jobs
from pneumo.tracking.journal import DONE, Journal

USAGE = """usage: python -m pneumo.runs status|sync|reproduce|register|export [tracking.uri=URI] ...

status [sweep=ID] [watch=SECONDS]
        a line for every run under output_dir, or every job of a sweep: its state, epoch, score and time left;
        watch=5 prints it anew every five seconds until nothing runs
sync    send everything that the tracking server lacks; may be run any time, twice, or by two at once
reproduce RUN_ID [run=true]
        the exact command of a run (its MLflow id or fingerprint, or how one begins); run=true trains it again
        in output_dir/reproduced and compares every figure, ending with 1 on a difference
register RUN_ID alias=champion [name=pneumo] [force=true]
        registers the model of a run in MLflow and gives it the alias, unless worse than the one that has it
export MODEL output=FILE.onnx
        writes a model (models:/NAME@ALIAS, a run id or a folder) as ONNX"""
# Not keys of the configuration.
OWN = {
    "status": ("sweep", "watch"),
    "reproduce": ("run",),
    "register": ("alias", "name"),
    "export": ("output",),
}
NAMED = ("reproduce", "register", "export")  # take what they work on as their first word


NOT_KNOWN = {"state": "", "epoch": "-", "score": "-", "time left": "-", "reason": ""}


def main() -> None:
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    own: dict[str, str] = {}
    rest = []
    for argument in sys.argv[2:]:
        key, equals, value = argument.partition("=")
        if equals and key in OWN.get(action, ()):
            own[key] = value
        elif action in NAMED and not equals and not argument.startswith("-"):
            own["what"] = argument
        else:
            rest.append(argument)
    sys.argv[2:] = rest
    actions = {
        "status": status,
        "sync": sync,
        "reproduce": reproduce,
        "register": register,
        "export": export,
    }
    sys.exit(config.run_action({name: functools.partial(act, own) for name, act in actions.items()}, USAGE))


def folders(settings: Config, kind: str = "*") -> list[Path]:
    """The folder of every run (or, for sweeps/*, every sweep), the oldest first."""
    root = Path(settings.output_dir).expanduser()
    if not root.is_dir():
        raise UserError(f"output_dir={root} is not a folder: no run has been made there.")
    found = [file.parent for file in root.glob(f"{kind}/journal.jsonl")]
    return sorted(found, key=lambda folder: (folder / "journal.jsonl").stat().st_mtime)


# ---- status


def status(own: Mapping[str, str], settings: Config) -> int:
    """Print a table of the runs, or of the jobs of one sweep."""
    try:
        watch_s = float(own.get("watch", 0))
    except ValueError:
        raise UserError(f"watch={own['watch']} is no number of seconds: give watch=5, for example.") from None
    while True:
        running = _sweep_status(settings, own["sweep"]) if "sweep" in own else _status(settings)
        if not watch_s or not running:
            return 0
        time.sleep(watch_s)
        print()


def _status(settings: Config) -> int:
    from pneumo.text import table as terminal_table

    rows = []
    for folder in folders(settings):
        try:
            journal = Journal(folder)
        except UserError as error:
            rows.append({"run": folder.name, "model": "-", **NOT_KNOWN, "state": "damaged"})
            config.complain(error)
            continue
        model = journal.params_logged.get("model.name", "-")
        rows.append({"run": folder.name, "model": model, **_standing(journal)})
    print(terminal_table(rows))
    for folder in folders(settings, "sweeps/*"):
        print(f"sweep {folder.name}: {Journal(folder).status} (status sweep={folder.name} shows its jobs)")
    return sum(row["state"] == "RUNNING" for row in rows)


def _sweep_status(settings: Config, name: str) -> int:
    from pneumo.text import table as terminal_table

    known = {folder.name: folder for folder in folders(settings, "sweeps/*")}
    if name not in known:
        raise UserError(f"sweep={name} is not known; there are {', '.join(known) or 'none'}.")
    rows = jobs.table(known[name])
    shown = []
    for row, job in zip(rows, jobs.names(rows), strict=True):
        line: dict[str, Any] = {"run": job, "fingerprint": row["fingerprint"] or "-"}
        if row["fingerprint"] and row["state"] != "FAILED":  # its journal could be what is damaged
            line |= _standing(Journal(known[name].parents[1] / row["fingerprint"]))
        else:
            line |= {**NOT_KNOWN, "state": row["state"], "reason": (row["reason"] or "")[:80]}
        shown.append(line)
    print(terminal_table(shown))
    done_s = [row["duration_s"] for row in rows if row["state"] in DONE]
    undone = sum(row["state"] not in DONE for row in rows)
    guess = f", about {_clock(undone * sum(done_s) / len(done_s))} one by one" if done_s and undone else ""
    print(f"sweep {name}: {len(done_s)} of {len(rows)} jobs done{guess}")
    return sum(row["state"] == "RUNNING" for row in rows)


def _standing(journal: Journal) -> dict[str, Any]:
    """State, epochs done and planned, score, time left of a run in training, and the reason of its end."""
    state, score = jobs.state_of(journal), jobs.score_of(journal)
    epochs = journal.history("time/epoch_s")
    planned = journal.params_logged.get("trainer.epochs", "?")
    left = "-"
    if state == "RUNNING" and epochs and planned.isdigit():
        left = _clock(max(0, int(planned) - len(epochs)) * sum(s for _, s in epochs[-3:]) / len(epochs[-3:]))
    return {
        "state": state,
        "epoch": f"{epochs[-1][0] if epochs else 0}/{planned}",
        "score": "-" if score != score else score,
        "time left": left,
        "reason": (journal.reason or "")[:80],
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


# ---- sync


def sync(own: Mapping[str, str], settings: Config) -> int:
    """Send what is left of every sweep and run; 1 if something could not be sent."""
    from pneumo.tracking import sender
    from pneumo.tracking.journal import redact

    uri = settings.tracking.uri or ""
    failed = 0
    for folder in folders(settings, "sweeps/*") + folders(settings):
        result = sender.sync(folder, settings.tracking, uri)
        refused = f", {result.refused} refused (see {folder}/refused.jsonl)" if result.refused else ""
        print(f"{folder.name}: {result.sent} records sent, {result.left} left{refused}")
        if result.error:
            config.complain(f"{folder.name}: {result.error}", 1)
        failed += bool(result.left or result.error)
    print(f"{redact(uri)}: " + (f"{failed} runs are not whole there yet" if failed else "has everything"))
    return 1 if failed else 0


# ---- reproduce


def reproduce(own: Mapping[str, str], settings: Config) -> int:
    """Print a run's command; with run=true carry it out elsewhere and compare. 1 if a figure differs."""
    if "what" not in own:
        raise UserError(f"reproduce which run? Give its MLflow id or its fingerprint.\n{USAGE}")
    if own.get("run", "false") not in ("true", "false"):
        raise UserError(f"run={own['run']} is not true or false.")
    folder = _find(settings, own["what"])
    journal = Journal(folder)
    overrides = _overrides(folder, journal)
    commit = journal.tags_logged.get("mlflow.source.git.commit")
    if commit:
        dirty = journal.tags_logged.get("pneumo.git_dirty") == "true"
        print(f"# made with commit {commit}{', and changes that were not committed' if dirty else ''}")
    print(" ".join(["python -m pneumo.train", *(shlex.quote(override) for override in overrides)]))
    if own.get("run") != "true":
        return 0
    if journal.status != "FINISHED":
        raise UserError(f"{folder.name} is {jobs.state_of(journal)}: only a finished run can be compared.")
    aside = Path(settings.output_dir).expanduser() / "reproduced"
    # Its figures are compared here; in the tracker it would stand as one more run of the experiment.
    extra = [f"output_dir={aside}", "force=true", "tracking.enabled=false"]
    done = subprocess.run([sys.executable, "-m", "pneumo.train", *overrides, *extra])
    if done.returncode:
        return done.returncode
    return _compare(journal, Journal(aside / journal.tags_logged["pneumo.fingerprint"]))


def _find(settings: Config, name: str) -> Path:
    found = []
    for folder in folders(settings):
        names = [
            folder.name,
            *(jobs.read_json(note).get("run_id") for note in folder.glob("sent-*.json")),
        ]
        if name in names:
            return folder
        if any(known and known.startswith(name) for known in names):
            found.append(folder)
    if len(found) == 1:
        return found[0]
    what = (
        ", ".join(folder.name for folder in found) if found else f"none; {settings.output_dir} holds others"
    )
    raise UserError(f"{name}: {what}. Give the MLflow id or the fingerprint of one run.")


def _overrides(folder: Path, journal: Journal) -> list[str]:
    """The shortest command line that composes to the same fingerprint; UserError where none does."""
    file = folder / "artifacts" / "config.yaml"
    if not file.exists():
        raise UserError(f"{file} is missing: the run ended before it was written.")
    saved: Any = OmegaConf.to_container(OmegaConf.load(file))
    groups = [f"{group}={part['name']}" for group, part in saved.items() if _is_option(group, part)]
    base = config.compose(groups).as_dict()
    needed = ("root", "on_bad_image", "phantom")  # they lead to the same data
    overrides = groups
    for group, value in saved.items():
        if group in fingerprint.IRRELEVANT[""]:
            continue
        if not isinstance(value, dict):
            if value != base[group]:
                overrides.append(f"{group}={_written(value)}")
            continue
        skipped = fingerprint.IRRELEVANT.get(group, ())
        for key, entry in value.items():
            if entry == base[group].get(key) or (key in skipped and not (group == "data" and key in needed)):
                continue
            parts = entry.items() if isinstance(entry, dict) else [("", entry)]
            for inner, own in parts:
                if not inner or own != base[group][key][inner]:
                    overrides.append(f"{group}.{key}{'.' + inner if inner else ''}={_written(own)}")
    made = config.compose(overrides).as_dict()
    wanted = journal.tags_logged["pneumo.fingerprint"]
    if fingerprint.fingerprint(made, journal.tags_logged["pneumo.data_digest"]) != wanted:
        raise UserError(f"{wanted} was made by another version: this one knows no command that gives it.")
    return overrides


def _is_option(group: str, part: Any) -> bool:
    return (
        isinstance(part, dict) and (config.shipped_dir("conf") / group / f"{part.get('name')}.yaml").exists()
    )


def _written(value: Any) -> str:
    """A value as an override writes it."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False) if not str(value).isalnum() else str(value)


def _compare(then: Journal, now: Journal) -> int:
    from pneumo.text import table as terminal_table

    first, second = (
        {(key, step): value for key, value, _, step in journal.metric_rows() if not key.startswith(MEASURED)}
        for journal in (then, now)
    )
    rows = [
        # In full: four decimals could look the same.
        {
            "metric": key,
            "epoch": step,
            "then": str(first.get((key, step))),
            "now": str(second.get((key, step))),
        }
        for key, step in sorted({*first, *second})
        if first.get((key, step)) != second.get((key, step))
    ]
    if rows:
        print("\n" + terminal_table(rows))
    print(f"{len(first) - len(rows)} of {len(first)} figures are equal to the last bit")
    return 1 if rows else 0


# ---- register, export


def register(own: Mapping[str, str], settings: Config) -> int:
    """Register a run's model under name and alias; 1 where something speaks against it."""
    from pneumo.inference import registration
    from pneumo.tracking.registry import Registry

    if not own.get("what") or not own.get("alias"):
        raise UserError(
            f"register which run as what? Give its MLflow id and alias=champion, for example.\n{USAGE}"
        )
    registry = Registry(settings.tracking.uri or "", _cache(settings))
    name = own.get("name", "pneumo")
    said = registration.register(registry, own["what"], name=name, alias=own["alias"], force=settings.force)
    print(said)
    print(f"use it: python -m pneumo.predict model=models:/{name}@{own['alias']} input=DIR")
    return 0


def export(own: Mapping[str, str], settings: Config) -> int:
    """Write a model as ONNX."""
    from pneumo.inference import bundle, export
    from pneumo.tracking.registry import resolve

    if not own.get("what") or not own.get("output"):
        raise UserError(f"export which model where? Give a model and output=FILE.onnx.\n{USAGE}")
    found = resolve(own["what"], settings.tracking.uri or "", _cache(settings))
    print(export.onnx(bundle.read(found.folder, found.version), Path(own["output"]).expanduser()))
    return 0


def _cache(settings: Config) -> Path:
    return Path(settings.data.cache_dir or ".cache")


if __name__ == "__main__":
    main()
