"""A disk that loses power: LazyFS, a file system that forgets what was not synced.

It cannot show a missing fsync of a folder: names are durable at once. Its source is in the folder that
PNEUMO_LAZYFS names, or in shared/tools/lazyfs beside the checkout. It is built once, into .cache/lazyfs.
"""

import os
import subprocess
import time
from pathlib import Path

from pneumo.files import locked
from support.commands import PROJECT

_WAIT_S = 30.0
_SETTINGS = """
[faults]
fifo_path="{folder}/commands"
fifo_path_completed="{folder}/completed"
[cache]
apply_eviction=false
[cache.simple]
custom_size="{size}"
blocks_per_page=1
[filesystem]
log_all_operations=false
logfile=""
"""


def build() -> Path:
    """The folder with LazyFS, built if need be. LookupError says why there is none."""
    named = os.environ.get("PNEUMO_LAZYFS")
    shared = Path(os.environ.get("PNEUMO_SHARED", PROJECT.parent / "shared"))
    source = Path(named) if named else shared / "tools" / "lazyfs"
    if not (source / "build").is_file():
        raise LookupError(f"there is no LazyFS: {source}/build is missing (PNEUMO_LAZYFS names its folder)")
    if not os.access("/dev/fuse", os.W_OK):
        raise LookupError("LazyFS needs /dev/fuse, which is not there or not for this user")
    built = PROJECT / ".cache" / "lazyfs"
    with locked(PROJECT / ".cache" / "lazyfs.lock", wait_s=600):
        if not (built / "lazyfs" / "build" / "lazyfs").is_file():
            done = subprocess.run([source / "build", built], capture_output=True, text=True)
            if done.returncode:
                raise LookupError(f"LazyFS could not be built: {done.stderr.strip()[-500:]}")
    return built


class LazyDisk:
    """A mounted disk: what is in `folder` is lost in a power loss unless it was synced."""

    def __init__(self, built: Path, place: Path, size: str = "128mb") -> None:
        self.folder, self._root, self._place, self._built = place / "disk", place / "kept", place, built
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (self.folder, self._root):
            folder.mkdir(parents=True)
        for fifo in ("commands", "completed"):
            os.mkfifo(place / fifo)
        (place / "lazyfs.toml").write_text(_SETTINGS.format(folder=place, size=size))
        # Read and write, so that neither side waits for the other to open it.
        self._completed = os.open(place / "completed", os.O_RDWR)

    def mount(self) -> None:
        """Mount the disk. LookupError if the system does not allow it."""
        command = [self._built / "lazyfs" / "build" / "lazyfs", self.folder]
        # A relative path, because LazyFS takes one with "-o" in it for an option.
        command += [
            "--config-path",
            "lazyfs.toml",
            "-o",
            "modules=subdir",
            "-o",
            f"subdir={self._root}",
            "-f",
        ]
        log = self._place / "lazyfs.log"
        with log.open("wb") as output:
            libraries = {"LD_LIBRARY_PATH": str(self._built / "libs" / "libpcache" / "build")}
            self._process = subprocess.Popen(
                command, cwd=self._place, env={**os.environ, **libraries}, stdout=output, stderr=output
            )
        deadline = time.monotonic() + _WAIT_S
        while not self.folder.is_mount():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                said = log.read_text().strip()[-500:]
                error = LookupError if "not permitted" in said else RuntimeError
                raise error(f"LazyFS could not be mounted: {said}")
            time.sleep(0.01)

    def lose_power(self) -> None:
        """Forget what was not synced, and mount the disk again. Nothing may be open on it."""
        with (self._place / "commands").open("wb", buffering=0) as commands:
            commands.write(b"lazyfs::clear-cache\n")
        os.read(self._completed, 4096)  # waits until it is done
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        """Unmount the disk, however it is."""
        deadline = time.monotonic() + _WAIT_S
        while self.folder.is_mount():  # busy while a killed command's own processes end
            lazily = ["-z"] if time.monotonic() > deadline else []
            subprocess.run(["fusermount3", "-u", *lazily, self.folder], capture_output=True)
            time.sleep(0.05)
        if self._process is not None:
            try:
                self._process.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
