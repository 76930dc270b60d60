"""What one run records: a journal on disk, and the sender that carries it to the tracking server."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pneumo.files import write_atomically
from pneumo.tracking.journal import Journal, NullJournal, redact
from pneumo.tracking.sender import NullSender, Sender
from pneumo.tracking.settings import TrackingSettings

AfterEpoch = Callable[[Mapping[str, float], int], None]


class RunLog:
    """The record of the run in `folder`. The trainer hands it every epoch's figures.

    Under several processes all of them read the journal, and the one with `writes` writes and sends it.
    `after_epoch` gets an epoch's figures once they are written; it may raise to end the run.
    """

    def __init__(
        self,
        folder: Path,
        tracking: TrackingSettings,
        *,
        writes: bool = True,
        after_epoch: AfterEpoch = lambda values, epoch: None,
    ) -> None:
        self.folder, self.artifacts = folder, folder / "artifacts"
        self.journal = Journal(folder)
        self.sender: Sender | NullSender = NullSender()
        self._tracking, self._sends, self._after_epoch = tracking, writes and tracking.enabled, after_epoch

    def set_aside(self, suffix: str) -> None:
        """Rename the folder and start with an empty journal in its place."""
        self.folder.rename(self.folder.with_name(f"{self.folder.name}-{suffix}"))
        self.journal.close()
        self.journal = Journal(self.folder)

    def keep_in_memory(self) -> None:
        """Write nothing from here on: another process of this run does."""
        self.journal = NullJournal()

    def start(self, name: str, experiment: str, tags: dict[str, str]) -> None:
        """Open the record or go on with it, and begin to send it."""
        self.journal.start(name, experiment, tags)
        self.journal.resume()
        self.send()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record the figures of the epoch `step`."""
        self.journal.metrics(dict(values), step)
        self.sender.notify()
        self._after_epoch(values, step)

    def keep_text(self, name: str, text: str) -> None:
        """Write the artifact `name` and record it."""
        write_atomically(self.artifacts / name, text.encode())
        self.journal.artifact(name)

    def append_json(self, name: str, entry: dict[str, Any]) -> None:
        """Append `entry` to the JSON list that is the artifact `name`, and record it."""
        try:
            entries = json.loads((self.artifacts / name).read_text())
        except (OSError, ValueError):
            entries = []
        entries = [*entries, entry] if isinstance(entries, list) else [entry]
        self.keep_text(name, json.dumps(entries, indent=1) + "\n")

    def record_artifacts(self) -> None:
        """Record every file below artifacts/, after removing what killed writes left there."""
        for leftover in self.artifacts.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for file in sorted(self.artifacts.rglob("[!.]*")):
            if file.is_file():
                self.journal.artifact(file.relative_to(self.artifacts).as_posix())

    def send(self) -> None:
        """Start the sender, where this process sends and tracking is enabled."""
        if self._sends:
            self.sender = Sender(self.folder, self._tracking, self._tracking.uri or "", self._print_trouble)
        self.sender.start()

    def _print_trouble(self, reason: str) -> None:
        print(
            f"note: not tracked yet, and the run goes on. {redact(self._tracking.uri or '')}: {reason}",
            flush=True,
        )

    def close(self) -> None:
        """Close the journal. The sender reads the file and may still be busy: see Sender.finish."""
        self.journal.close()
