"""python -m pneumo.runs status|sync: what is done, failed or stale; send a tracker what it lacks."""

import sys
from pathlib import Path

from pneumo import UserError, config
from pneumo.config import Config
from pneumo.tracking.journal import Journal, is_being_written

USAGE = """usage: python -m pneumo.runs status|sync [output_dir=DIR] [tracking.uri=URI]

status  a line for every run under output_dir: its state, epoch and score
sync    send everything that the tracking server lacks; may be run any time, twice, or by two at once"""


def main() -> None:
    sys.exit(config.run_action(ACTIONS, USAGE))


def folders(settings: Config) -> list[Path]:
    """Every run's folder, the oldest first."""
    root = Path(settings.output_dir).expanduser()
    if not root.is_dir():
        raise UserError(f"output_dir={root} is not a folder: no run has been made there.")
    found = [file.parent for file in root.glob("*/journal.jsonl")]
    return sorted(found, key=lambda folder: (folder / "journal.jsonl").stat().st_mtime)


def status(settings: Config) -> int:
    """Print a table of the runs. RUNNING without a living process is stale: its command continues it."""
    from pneumo.evaluation.run_report import terminal_table

    rows = []
    for folder in folders(settings):
        journal = Journal(folder)
        state = journal.status or "empty"
        if state == "RUNNING" and not is_being_written(folder):
            state = "stale"
        epochs = journal.history("val/auroc")
        best = journal.history("best/val_auroc")
        planned = journal.params_logged.get("trainer.epochs", "?")
        rows.append(
            {
                "run": folder.name,
                "model": journal.params_logged.get("model.name", "-"),
                "state": state,
                "epoch": f"{epochs[-1][0] if epochs else 0}/{planned}",
                "val AUROC": max((value for _, value in best or epochs), default="-"),
                "reason": (journal.reason or "")[:80],
            }
        )
    print(terminal_table(rows))
    return 0


def sync(settings: Config) -> int:
    """Send what is left of every run; 1 if something could not be sent."""
    from pneumo.tracking import sender
    from pneumo.tracking.journal import redact

    uri = settings.tracking.uri or ""
    failed = 0
    for folder in folders(settings):
        result = sender.sync(folder, settings.tracking, uri)
        refused = f", {result.refused} refused (see {folder}/refused.jsonl)" if result.refused else ""
        print(f"{folder.name}: {result.sent} records sent, {result.left} left{refused}")
        if result.error:
            config.complain(f"{folder.name}: {result.error}", 1)
        failed += bool(result.left or result.error)
    print(f"{redact(uri)}: " + (f"{failed} runs are not whole there yet" if failed else "has everything"))
    return 1 if failed else 0


ACTIONS = {"status": status, "sync": sync}

if __name__ == "__main__":
    main()
