"""A sweep: the journal that becomes its parent run, and the files that say what its jobs did."""

import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pneumo import UserError
from pneumo.files import LOCK_WAIT_S, write_atomically
from pneumo.names import BEST_OVERRIDES_TAG, BEST_TAG, NOTE_TAG, OVERRIDES_TAG, QUESTION_TAG, SWEEP_TAG
from pneumo.sweep import identity, jobs, note
from pneumo.sweep.jobs import SweepJob, SweepJobRow
from pneumo.tracking.journal import DONE, Journal, redact


@dataclass(kw_only=True)
class Sweep:
    """One sweep, as one command issues it. It is pickled along to jobs in other processes."""

    id: str
    root: str  # output_dir, absolute
    experiment: str
    overrides: list[str]
    planned: dict[str, list[str]]  # key -> overrides of each job, where they are known beforehand
    axes: list[str] = field(default_factory=list)  # the keys that it varies
    command: str = ""  # as typed, without secrets
    question: str | None = None
    on_failure: str = "continue"
    keep_best: int | None = 3
    issue: str = field(default_factory=lambda: uuid.uuid4().hex)  # of the command that issues it

    @property
    def folder(self) -> Path:
        return Path(self.root) / "sweeps" / self.id

    def job(self, overrides: list[str], number: int) -> SweepJob:
        """Open the record of the job with these overrides, as typed."""
        chosen = identity.choices(overrides)
        shown = [redact(choice) for choice in chosen]
        return SweepJob(self.folder, identity.job_key(chosen), shown, number, self.issue)

    @property
    def tracker_is_down(self) -> bool:
        """True if the last job of this command waited for the tracker in vain, in whatever process."""
        try:
            return self._tracker_mark.read_text() == self.issue
        except FileNotFoundError:
            return False

    def note_tracker(self, is_down: bool) -> None:
        """Note for the jobs that follow, also in other processes, whether waiting for the tracker helps."""
        if is_down:
            write_atomically(self._tracker_mark, self.issue.encode())
        else:
            self._tracker_mark.unlink(missing_ok=True)

    @property
    def _tracker_mark(self) -> Path:
        return self.folder / "tracker_is_down"

    def begin(self, trains: bool) -> None:
        """Open the parent's record. Any process may call this; the first call opens it.

        `trains`: the caller's job trains, so a sweep that had ended goes on.
        """
        jobs.plan(self.folder, self.issue, self.planned)
        journal = Journal(self.folder)
        if journal.status == "RUNNING" or (journal.status is not None and not trains):
            return
        if not journal.hold(LOCK_WAIT_S):
            raise UserError(f"{journal.path} is held by another process; stop it, or try again.")
        tags = {SWEEP_TAG: self.id, OVERRIDES_TAG: " ".join(self.overrides)}
        if self.question:
            tags[QUESTION_TAG] = self.question
        try:
            journal.start(self.id, self.experiment, tags)
            journal.tags(tags | {NOTE_TAG: note.of_sweep(self.id, self.question, self.command, [])})
            journal.resume()
        finally:
            journal.close()

    def stopped(self) -> str | None:
        """Why no further job of this command starts; None where they do."""
        if self.on_failure != "stop":
            return None
        ours = (job for job in jobs.records(self.folder) if job["issue"] == self.issue)
        failed = [" ".join(job["overrides"]) for job in ours if job["state"] == "FAILED"]
        return f"on_failure=stop, and {failed[0]} failed" if failed else None

    def finish(self, code: int) -> list[SweepJobRow]:
        """Bring the parent's record up to date with the jobs; return the rows of this command's jobs.

        Call it however the command ended. After a kill, the same command given again catches up.
        """
        rows = jobs.table(self.folder)
        if not rows:
            return []
        self.begin(trains=False)
        journal = Journal(self.folder)
        if not journal.hold(LOCK_WAIT_S):
            raise UserError(
                f"{journal.path} is held by another process; stop it, and give the command again."
            )
        try:
            self._record(journal, rows)
            journal.tags({NOTE_TAG: note.of_sweep(self.id, self.question, self.command, rows)})
            self._end(journal, rows, code)
        finally:
            journal.close()
        return [row for row in rows if row["issue"] == self.issue or row["key"] in self.planned]

    def _record(self, journal: Journal, rows: list[SweepJobRow]) -> None:
        """Record the table of the jobs, their counts and the best of them."""
        artifacts = self.folder / "artifacts"
        facts = {"sweep": self.id, "question": self.question, "overrides": self.overrides}
        jobs.write_table(artifacts, rows, facts)
        for file in sorted(artifacts.rglob("[!.]*")):  # also what a search put there
            if file.is_file():
                journal.artifact(file.relative_to(artifacts).as_posix())
        counts = Counter(row["state"] for row in rows)
        figures = {
            f"jobs/{state.lower()}": float(counts[state]) for state in ("FINISHED", "FAILED", "PRUNED")
        }
        figures["jobs/all"] = float(len(rows))
        if best := jobs.best(rows):
            assert best["score"] is not None
            journal.tags({BEST_TAG: best["fingerprint"], BEST_OVERRIDES_TAG: " ".join(best["overrides"])})
            figures["best/score"] = best["score"]
            known = {column: value for column, value in best["figures"].items() if value is not None}
            figures |= {jobs.COLUMNS[column]: value for column, value in known.items()}
        recorded = {key: journal.history(key)[-1][1] for key in figures if journal.history(key)}
        if recorded != figures:
            journal.metrics(figures, journal.last)

    @staticmethod
    def _end(journal: Journal, rows: list[SweepJobRow], code: int) -> None:
        """Record how the sweep ended, if no other command still trains a job of it."""
        counts = Counter(row["state"] for row in rows)
        if counts["RUNNING"]:
            return  # the other command records the end
        status, reason = "KILLED" if code >= 128 else "FAILED", None
        if counts.total() == sum(counts[state] for state in DONE) and not code:
            status = "FINISHED"
        else:
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            reason = f"of {len(rows)} jobs: {states}"
        if (status, reason) != (journal.status, journal.reason):
            journal.resume()  # takes back the reason of an earlier end
            journal.end(status, reason)
