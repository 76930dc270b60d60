"""SIGTERM and SIGINT at any moment: exit code, state, and the same command then finishes the run."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import import_path
from support.warm import Signalled, Train

from pneumo.tracking.journal import Journal
from pneumo.training.signals import EXIT_CODES, Interrupted, StopRequest

PROJECT = Path(__file__).parents[2]


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


# ---- the request itself


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = [*EXIT_CODES, signal.SIGALRM]
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_interrupts_at_once_where_nothing_defers_it(number: int, code: int) -> None:
    with (
        pytest.raises(Interrupted, match=rf"^stopped by {signal.Signals(number).name}$") as raised,
        StopRequest(),
    ):
        send(number)
    assert raised.value.code == code


def test_a_deferred_signal_is_noted_and_a_second_one_interrupts() -> None:
    with StopRequest() as stop:
        assert (stop.reason(), stop.exit_code, stop.seconds_left) == (None, 0, None)
        stop.deferred = True
        send(signal.SIGINT)
        assert (stop.reason(), stop.exit_code) == ("stopped by SIGINT", 130)
        assert stop.seconds_left is not None and 29 < stop.seconds_left <= 30
        with pytest.raises(Interrupted, match=r"stopped by SIGINT, and a second signal came") as raised:
            send(signal.SIGTERM)
        assert raised.value.code == 130  # the first one's
        send()
        send()  # the code that caught it is not interrupted again


def test_a_signal_that_is_not_obeyed_in_time_interrupts() -> None:
    with StopRequest(grace_s=0.05) as stop:
        stop.deferred = True
        send()
        with pytest.raises(
            Interrupted, match=r"stopped by SIGTERM and did not end within trainer.grace_s=0.05"
        ):
            time.sleep(5)


def test_a_shield_only_delays_the_end_of_the_grace() -> None:
    with StopRequest(grace_s=0.05) as stop:
        stop.deferred = stop.shielded = True
        send()
        time.sleep(0.2)
        stop.shielded = False
        with pytest.raises(Interrupted, match="did not end within"):
            time.sleep(5)


def test_requests_nest() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            inner.deferred = True
            send()
        assert (inner.exit_code, outer.exit_code) == (143, 0)
        with pytest.raises(Interrupted):
            send()
        assert outer.exit_code == 143


def test_another_thread_takes_no_signals() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with StopRequest() as stop:
                assert stop.reason() is None
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


# ---- through the train command


class TrainCommand:
    """The train command on a tiny phantom, in separate folders."""

    def __init__(self, folder: Path, cache: Path, *overrides: str) -> None:
        self.folder = folder
        self.arguments = [
            *("data=phantom", "data.phantom.train_patients=24", "data.phantom.test_patients=8"),
            *("data.image_size=32", "trainer.epochs=2", "trainer.batch_size=16", "trainer.device=cpu"),
            *("augment=none", f"output_dir={folder}/outputs", "tracking.enabled=false", *overrides),
        ]
        self.environment = {
            **os.environ,
            "PYTHONPATH": import_path(PROJECT),
            "OMP_NUM_THREADS": "1",
            "PNEUMO_TEST_TINY": "on",
            "PNEUMO_CACHE": str(cache),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        }

    def __call__(self, *extra: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self._run(extra, code)

    def signalled(
        self,
        place: str,
        *extra: str,
        call: int = 1,
        numbers: str = "SIGTERM",
        pause_s: float = 0,
        code: int = 143,
    ) -> subprocess.CompletedProcess[str]:
        """Run it; the function at `place` sends the signals to the process when it is called."""
        sent = tuple(getattr(signal, number) for number in numbers.split(","))
        return self._run(extra, code, Signalled(place, call, sent, pause_s))

    def _run(
        self, extra: tuple[str, ...], code: int, first: Signalled | None = None
    ) -> subprocess.CompletedProcess[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        out, errors = (self.folder / f"{name}.txt" for name in ("out", "err"))
        for file in (out, errors):
            file.write_text("")
        line = [*self.arguments, *extra]
        process = Train(line, self.folder, out, self.environment, errors, first)
        try:
            returned = process.wait(240)
        finally:
            process.kill()
        done = subprocess.CompletedProcess(line, returned, out.read_text(), errors.read_text())
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @property
    def journals(self) -> list[Journal]:
        return [Journal(path.parent) for path in sorted((self.folder / "outputs").glob("*/journal.jsonl"))]

    def assert_state(self, status: str, reason: str | None = None) -> None:
        (journal,) = self.journals
        assert journal.status == status
        if reason is not None:
            assert journal.reason == reason


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


CONTINUES = "; the same command continues"
LOST = f"{CONTINUES}, from the last saved state"


def test_a_signal_in_a_step(tmp_path: Path, cache: Path) -> None:
    train = TrainCommand(tmp_path, cache)
    stopped = train.signalled("pneumo.training.trainer:Trainer._step", call=3)
    assert f"stopped: stopped by SIGTERM{CONTINUES}" in stopped.stderr
    train.assert_state("KILLED", f"stopped by SIGTERM{CONTINUES}")
    assert "continues (was KILLED)" in train().stdout
    train.assert_state("FINISHED")
    assert [step for step, _ in train.journals[0].history("val/auroc")] == [1, 2]


@pytest.mark.services
@pytest.mark.parametrize(
    ("place", "call", "number", "reason"),
    [
        ("pneumo.tracking.journal:Journal.params", 1, "SIGTERM", LOST),
        ("pneumo.models:build_model", 1, "SIGINT", LOST),
        ("pneumo.training.trainer:Trainer._step", 1, "SIGINT", CONTINUES),
        ("pneumo.training.trainer:Trainer._step", 6, "SIGUSR1", CONTINUES),
        ("pneumo.training.trainer:Trainer.score", 1, "SIGTERM", CONTINUES),  # validation
        ("pneumo.data.loader:Split.take", 5, "SIGINT", CONTINUES),  # validation, inside it
        ("pneumo.training.state_writer:save_resume", 1, "SIGTERM", CONTINUES),
        ("pneumo.training.state_writer:save_weights", 1, "SIGTERM", CONTINUES),
        ("pneumo.training.trainer:Trainer.score", 4, "SIGTERM", CONTINUES),  # the final report's test scores
    ],
)
def test_a_signal_anywhere_in_a_run(
    place: str, call: int, number: str, reason: str, tmp_path: Path, cache: Path
) -> None:
    train = TrainCommand(tmp_path, cache)
    train.signalled(place, call=call, numbers=number, code=130 if number == "SIGINT" else 143)
    train.assert_state("KILLED", f"stopped by {number}{reason}")
    train()
    train.assert_state("FINISHED")
    assert [step for step, _ in train.journals[0].history("val/auroc")] == [1, 2]


WRITE = "pneumo.evaluation.run_report:write"


@pytest.mark.services
def test_a_report_that_can_be_finished_is_and_else_is_written_again(tmp_path: Path, cache: Path) -> None:
    train = TrainCommand(tmp_path / "in time", cache)
    train.signalled(WRITE, code=0)
    train.assert_state("FINISHED")
    train = TrainCommand(tmp_path / "too late", cache)
    train.signalled(WRITE, "trainer.grace_s=0.1", pause_s=20)
    train.assert_state("KILLED", f"stopped by SIGTERM and did not end within trainer.grace_s=0.1{LOST}")
    train()
    train.assert_state("FINISHED")


@pytest.mark.services
def test_a_second_signal_ends_at_once(tmp_path: Path, cache: Path) -> None:
    train = TrainCommand(tmp_path, cache)
    train.signalled("pneumo.training.trainer:Trainer._step", call=5, numbers="SIGTERM,SIGTERM")
    train.assert_state("KILLED", f"stopped by SIGTERM, and a second signal came{LOST}")
    train()
    train.assert_state("FINISHED")


@pytest.mark.services
def test_a_signal_ends_a_sweep(tmp_path: Path, cache: Path) -> None:
    sweep = ("hydra.mode=MULTIRUN", "seed=0,1")
    for name, place, state in (
        ("step", "pneumo.training.trainer:Trainer._step", "KILLED"),
        ("end", WRITE, "FINISHED"),
    ):
        train = TrainCommand(tmp_path / name, cache)
        train.signalled(place, *sweep)
        train.assert_state(state)  # of the one job that began
        train(*sweep)
        assert [journal.status for journal in train.journals] == ["FINISHED", "FINISHED"]


@pytest.mark.services
def test_a_signal_while_waiting_for_a_dead_server(tmp_path: Path, cache: Path) -> None:
    dead = ("tracking.enabled=true", "tracking.uri=http://127.0.0.1:9", "tracking.flush_s=100")
    train = TrainCommand(tmp_path / "done", cache, *dead)
    started = time.monotonic()
    done = train.signalled("pneumo.tracking.sender:Sender.finish", code=0)
    train.assert_state("FINISHED")
    assert "records are still to be sent" in done.stdout
    train = TrainCommand(tmp_path / "killed", cache, *dead, "trainer.grace_s=3")
    train.signalled("pneumo.training.trainer:Trainer._step")
    train.assert_state("KILLED")
    assert time.monotonic() - started < 100


@pytest.mark.services
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_while_the_cache_is_built(number: int, code: int, workers: int, tmp_path: Path) -> None:
    train = TrainCommand(
        tmp_path, tmp_path / "cache", "data.phantom.train_patients=300", f"data.num_workers={workers}"
    )
    line = [sys.executable, "-m", "pneumo.train", *train.arguments]
    process = subprocess.Popen(
        line, env=train.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not any(file.read_bytes()[128:].strip(b"\0") for file in tmp_path.glob("cache/*.tmp*/images.npy")):
        time.sleep(0.02)  # until the file holds the first image after its header
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"stopped by {signal.Signals(number).name}; the same command continues" in errors
    assert "Traceback" not in errors
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    assert not train.journals
    deadline = time.monotonic() + 60  # multiprocessing's helper process ends a moment later
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.services
def test_a_signal_while_hydra_composes(tmp_path: Path, cache: Path) -> None:
    train = TrainCommand(tmp_path, cache)
    stopped = train.signalled("pneumo.config:register", numbers="SIGINT", code=130)
    assert "stopped by SIGINT" in stopped.stderr
    assert not train.journals
