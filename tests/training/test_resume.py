"""A run that is interrupted anywhere and started again ends with exactly the bits of an undisturbed run."""

import errno
import hashlib
import io
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.commands import PROJECT
from support.training import AUGMENT, Recorder, Tiny, make_trainer, recipe

from pneumo import UserError
from pneumo.files import write_atomically
from pneumo.training.checkpoint import load_resume, load_weights, save_resume, save_weights
from pneumo.training.runtime import Runtime, open_runtime
from pneumo.training.settings import TrainerSettings
from pneumo.training.signals import Stopped
from pneumo.training.trainer import Recipe, Trainer

IDENTITY = {"optim.lr": 0.01, "model.name": "tiny", "seed": 0}


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[Runtime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_runtime(TrainerSettings(device="cpu", precision="float32", deterministic=True))
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def everything(**settings: object) -> Recipe:
    """All parts of the state at once: averaging, dropout, augmentation, accumulation, momentum, clipping."""
    made = {
        "ema_decay": 0.9,
        "grad_accum_steps": 2,
        "grad_clip_norm": 1.0,
        "deterministic": True,
        "sampler": "weighted",
        "schedule": {"name": "onecycle", "warmup_fraction": 0.3},
        "augment": AUGMENT,
    }
    return recipe(**{**made, **settings})


class Killed(BaseException):
    """Like a killed process: nothing is saved afterwards."""


def at(call: int, then: Callable[[], str | None]) -> Callable[[], str | None]:
    """A should_stop that does `then` on call number `call` (from 0)."""
    asked = iter(range(10**9))
    return lambda: then() if next(asked) == call else None


def killed() -> str | None:
    raise Killed


class Run:
    """A run in one folder with one journal. Each start has different initial weights."""

    def __init__(self, folder: Path, made: Recipe) -> None:
        self.folder, self.made, self.recorder, self.starts = folder, made, Recorder(), 0

    def start(self, should_stop: Callable[[], str | None] = lambda: None) -> Trainer:
        with warnings.catch_warnings(action="ignore"):
            begun = load_resume(self.folder) is not None
        model = Tiny(seed=self.starts if begun else 0)  # the loaded state must not depend on them
        self.starts += 1
        trainer = make_trainer(
            self.folder, self.made, model, record=self.recorder, identity=IDENTITY, should_stop=should_stop
        )
        trainer.fit()
        return trainer


def finish(run: Run) -> dict[str, object]:
    """Start for the last time. Returns every number of the run and the hash of the best weights."""
    trainer = run.start()
    average = trainer.average.model.state_dict() if trainer.average else {}
    return {
        "weights": trainer.network.state_dict(),
        "average": average,
        "optimizer": trainer.optimizer.state_dict()["state"],
        "figures": run.recorder.figures(),
        "keys": sorted(run.recorder.points),
        "history": trainer.progress.repeatable,
        "best": hashlib.sha256(trainer.best_path.read_bytes()).hexdigest(),
        "best epoch": trainer.progress.best_epoch,
    }


def assert_same(one: object, other: object, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor) and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    else:
        assert one == other, where


@pytest.fixture
def undisturbed(tmp_path: Path) -> tuple[dict[str, object], int]:
    """The results of an undisturbed run, and how often it asks whether to stop."""
    count = 0

    def ask() -> None:
        nonlocal count
        count += 1

    run = Run(tmp_path / "undisturbed", everything())
    run.start(ask)
    return finish(run), count


def test_starting_a_finished_run_again_changes_nothing(undisturbed: tuple[dict[str, object], int]) -> None:
    assert undisturbed[0]["best epoch"] in (1, 2) and len(undisturbed[0]["history"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"sampler": "imbalanced", "select_on": "test", "ema_decay": None}])
def test_stopped_at_every_single_place(options: dict[str, object], tmp_path: Path) -> None:
    count = 0

    def ask() -> None:
        nonlocal count
        count += 1

    made = everything(**options)
    whole = Run(tmp_path / "whole", made)
    whole.start(ask)
    expected = finish(whole)
    # Two epochs of: three steps, one check after them, three validation batches (and three of test).
    assert count == 2 * (3 + 1 + 3 * (1 + ("select_on" in options)))
    for place in range(count):
        run = Run(tmp_path / f"stop{place}", made)
        with pytest.raises(Stopped, match="asked"):
            run.start(at(place, lambda: "asked"))
        assert_same(finish(run), expected, f"stopped at {place}")


@pytest.mark.parametrize("every_s", [1e-9, 1e6])
def test_killed_at_every_single_place(
    every_s: float, tmp_path: Path, undisturbed: tuple[dict[str, object], int]
) -> None:
    expected, count = undisturbed
    for place in range(count):
        run = Run(tmp_path / f"kill{place}", everything(checkpoint_every_s=every_s))
        with pytest.raises(Killed):
            run.start(at(place, killed))
        assert_same(finish(run), expected, f"killed at {place}")


def test_killed_again_and_again(tmp_path: Path, undisturbed: tuple[dict[str, object], int]) -> None:
    expected, count = undisturbed
    run = Run(tmp_path / "often", everything(checkpoint_every_s=1e-9))
    for turn in range(3 * count):
        try:
            run.start(at(turn % 3 + 1, killed if turn % 2 else lambda: "asked"))
            break
        except (Killed, Stopped):
            pass
    assert run.starts > 5
    assert_same(finish(run), expected)


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("place", ["save_resume", "save_weights", "metrics"])
def test_killed_beside_every_write(
    place: str, tmp_path: Path, undisturbed: tuple[dict[str, object], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before and after each write of a state, best weights or metrics."""
    expected, _ = undisturbed
    for number in range(8):
        run = Run(tmp_path / f"{place}{number}", everything(checkpoint_every_s=1e-9))
        target: object = run.recorder if place == "metrics" else "pneumo.training.state_writer"
        original = run.recorder.metrics if place == "metrics" else globals()[place]
        calls = iter(range(1000))

        def write(*args: object, number=number, original=original, calls=calls) -> None:
            call = next(calls)
            if call == number // 2 and number % 2 == 0:
                raise Killed
            original(*args)
            if call == number // 2:
                raise Killed

        with monkeypatch.context() as patch:
            if place == "metrics":
                patch.setattr(target, place, write)
            else:
                patch.setattr(f"{target}.{place}", write)
            try:
                run.start()
            except Killed:
                pass
            else:
                assert place != "save_resume" and number >= 2  # this run has fewer writes
        assert_same(finish(run), expected, f"{place} {number}")


# ---- damage


def spoil(path: Path, how: str, mark: Path) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        payload = pickle.dumps({"identity": {}, "x": Payload(mark)})
        if how == "pickle in torch's format":
            buffer = io.BytesIO()
            torch.save({"identity": {}, "x": Payload(mark)}, buffer)
            payload = buffer.getvalue()
        elif how == "pickle that ends early":
            payload = b"\x80\x02]q\x00(\x80\x02]"  # from the fuzzer: an error without a message
        elif how == "something else":
            buffer = io.BytesIO()
            torch.save([1, 2, 3], buffer)
            payload = buffer.getvalue()
        path.write_bytes(hashlib.sha256(payload).digest() + payload)


class Payload:
    """Unsafe unpickling of this would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))


DAMAGE = [
    "truncated",
    "empty",
    "flipped",
    "pickle",
    "pickle in torch's format",
    "pickle that ends early",
    "something else",
]


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_newest_state_falls_back(
    how: str, tmp_path: Path, undisturbed: tuple[dict[str, object], int]
) -> None:
    run, mark = Run(tmp_path / "run", everything(checkpoint_every_s=1e-9)), tmp_path / "executed"
    with pytest.raises(Killed):
        run.start(at(9, killed))
    assert len(states(run.folder)) == 2
    newest = states(run.folder)[-1]
    spoil(newest, how, mark)
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged.*the state before it"):
        result = finish(run)
    assert_same(result, undisturbed[0])
    assert not mark.exists()
    assert newest not in states(run.folder)


@pytest.mark.usefixtures("quick_disk")
def test_two_damaged_states_start_over_and_do_not_stand_in_the_way(
    tmp_path: Path, undisturbed: tuple[dict[str, object], int]
) -> None:
    run = Run(tmp_path / "run", everything(checkpoint_every_s=1e-9))
    with pytest.raises(Killed):
        run.start(at(9, killed))
    for path in states(run.folder):
        spoil(path, "flipped", tmp_path / "executed")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(Killed):
        run.start(at(2, killed))  # early on: the new states are of lower steps than the damaged ones
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = load_resume(run.folder)
        assert state is not None and state["progress"]["step"] > 0
        assert_same(finish(run), undisturbed[0])


def test_the_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, recipe(epochs=1), identity={"optim.lr": 0.01, "seed": 0, "old": 1}).fit()
    with pytest.raises(UserError) as raised:
        make_trainer(tmp_path, recipe(epochs=1), identity={"optim.lr": 0.02, "seed": 0, "new": 2}).fit()
    text = str(raised.value)
    assert "new (None there, 2 here), old (1 there, None here), optim.lr (0.01 there, 0.02 here)" in text
    assert "seed" not in text and str(tmp_path) in text


def test_states_are_ordered_by_number_and_leftovers_go(tmp_path: Path) -> None:
    for step in (999_000_005, 1_000_000_000, 1_000_000_001):  # one digit more from epoch 1001 on
        save_resume(tmp_path, {"identity": {}, "step": step}, step)
    assert [int(path.stem[5:]) for path in states(tmp_path)] == [1_000_000_000, 1_000_000_001]
    (tmp_path / ".step-000000007.pt.123.tmp").write_bytes(b"half")
    state = load_resume(tmp_path)
    assert state is not None and state["step"] == 1_000_000_001
    assert not list(tmp_path.glob(".*"))


def test_weights_that_do_not_fit_or_are_none(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, torch.nn.Linear(2, 2).state_dict(), {})
    with pytest.raises(UserError, match="does not fit the model"):
        load_weights(path, Tiny())
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(UserError, match=r"is not a readable .safetensors file"):
        load_weights(path, Tiny())
    with pytest.raises(UserError, match=r"is not a readable .safetensors file"):
        load_weights(tmp_path / "missing.safetensors", Tiny())
    assert not (tmp_path / "executed").exists()


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler


@pytest.mark.usefixtures("quick_disk")
def test_a_full_disk_leaves_the_state_before_and_says_so(
    small_disk: Path, undisturbed: tuple[dict[str, object], int]
) -> None:
    expected, count = undisturbed
    run = Run(small_disk / "run", everything(checkpoint_every_s=1e-9))
    for place in range(2, count, 3):

        def fill_up() -> None:
            fill(small_disk)

        try:
            with pytest.raises(UserError, match=r"the disk is full: .* was not written .*is intact"):
                run.start(at(place % 5, fill_up))
        finally:
            before = [path.read_bytes() for path in states(run.folder)]
            assert not list(run.folder.glob(".*.tmp"))
            (small_disk / "filler").unlink()
        assert all(hashlib.sha256(content[32:]).digest() == content[:32] for content in before)
        if run.starts > 4:
            break
    assert_same(finish(run), expected)


def test_a_disk_that_fills_while_syncing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    write_atomically(path, b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"the disk is full.*state.pt was not written \(5 bytes\)"):
            write_atomically(path, b"after")
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


# ---- real kills


@pytest.mark.services
def test_four_real_kills_leave_no_trace() -> None:
    script = PROJECT / "tools" / "kill_and_resume.py"
    small = [
        "--patients",
        "40",
        "--epochs",
        "2",
        "--image-size",
        "32",
        "--batch-size",
        "8",
        "--checkpoint-every-s",
        "0.5",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "4", *small],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal in every row and file" in done.stdout
