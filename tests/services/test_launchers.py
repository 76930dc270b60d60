"""Sweeps on a real Ray cluster and a real Slurm, and a search, each with processes killed in the middle."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from support.commands import Hold, environment
from support.servers import free_port

from pneumo.tracking.journal import Journal

pytestmark = pytest.mark.services
DATA = "data=phantom data.image_size=32 data.num_workers=1"
PATIENTS = "data.phantom.train_patients=30 data.phantom.test_patients=10"
TINY = [
    *DATA.split(),
    *PATIENTS.split(),
    *"trainer.batch_size=8 trainer.limit_batches=1 trainer.device=cpu model=resnet18".split(),
]


class Sweep:
    """A sweep of tiny runs in a separate process, with everything below `folder`."""

    def __init__(self, folder: Path, *overrides: str, hold: Hold | None = None) -> None:
        self.outputs, self.log = folder / "outputs", folder / "log.txt"
        line = [sys.executable, "-m", "pneumo.train", "--multirun", *TINY, *overrides]
        line += ["tracking.enabled=false", f"output_dir={self.outputs}"]
        more = hold.environment if hold else {}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                line,
                cwd=folder,
                env=environment(folder, PYTHONUNBUFFERED="1", OMP_NUM_THREADS="1", **more),  # tiny runs
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def journals(self, key: str = "seed") -> dict[str, Journal]:
        """Each run's journal by its seed, or by another param that differs between runs."""
        journals = [Journal(file.parent) for file in self.outputs.glob("*/journal.jsonl")]
        return {journal.params_logged[key]: journal for journal in journals if key in journal.params_logged}

    def epochs(self, seed: str) -> int:
        journals = self.journals()
        return len(journals[seed].history("val/auroc")) if seed in journals else 0

    def wait_for(self, what: Callable[[], object], timeout_s: float = 600) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def end(self, timeout_s: float = 900) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


def starts_and_epochs(output: str) -> tuple[Counter[str], Counter[tuple[str, int]]]:
    """How often each run started from the beginning, and each (run, epoch) was trained, from the output."""
    begun: Counter[str] = Counter()
    trained: Counter[tuple[str, int]] = Counter()
    current: dict[str, str] = {}  # process -> run
    for line in output.splitlines():
        process = (re.findall(r"pid=(\d+)", line) or ["?"])[0]
        if match := re.search(r"(begins|continues).* in \S*/(\w{16})", line):
            current[process] = match[2]
            begun[match[2]] += match[1] == "begins"
        elif match := re.search(r"epoch +(\d+)  train/loss", line):
            trained[current[process], int(match[1])] += 1
    return begun, trained


# ---- Ray


CLUSTER = """
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
other = cluster.add_node(**small)
print("cluster", cluster.address, other.all_processes["raylet"][0].process.pid, flush=True)
input()
cluster.shutdown()
"""


def test_ray_node_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs pip install 'pneumo[ray]'")
    from pneumo.sweep.launchers import OWN_RAY

    hold = Hold(tmp_path / "hold", 2)
    own = {**OWN_RAY, "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0", **hold.environment}
    for key, value in own.items():
        monkeypatch.setenv(key, value)  # for the cluster, whose workers train
    line = [sys.executable, "-c", CLUSTER]
    with ExitStack() as stack:
        cluster = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(cluster.communicate, "\n", timeout=60)
        started = next(words for words in map(str.split, cluster.stdout) if words[:1] == ["cluster"])
        address = f"hydra.launcher.ray.init.address={started[1]}"
        sweep = Sweep(tmp_path, "hydra/launcher=ray", address, "trainer.epochs=6", "seed=0,1,2,3")
        stack.callback(sweep.kill)
        sweep.wait_for(lambda: sweep.epochs("0") >= 2 and sweep.epochs("1") >= 2)
        raylet = psutil.Process(int(started[2]))
        workers = raylet.children(recursive=True)
        for process in (raylet, *workers):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        hold.release()
        assert sweep.end() == 0, sweep.output
    journals = sweep.journals()
    assert {seed: journal.status for seed, journal in journals.items()} == dict.fromkeys("0123", "FINISHED")
    begun, trained = starts_and_epochs(sweep.output)
    assert "continues (was killed)" in sweep.output
    assert sorted(begun.values()) == [1, 1, 1, 1]
    # Training after the last saved state may be repeated: one epoch of the run that was killed.
    assert len(trained) <= 24 and trained.total() <= 25 and max(trained.values()) <= 2


SEARCH = [
    *("hydra/sweeper=pneumo_optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.study=few"),
    *("optim.lr=tag(log, interval(1e-5, 1e-2))", "trainer.epochs=1"),
]


def searched(folder: Path, sweep: Sweep) -> None:
    """The search of two trials succeeded: the study has both, each trained once, with the right scores."""
    import optuna

    assert sweep.end() == 0, sweep.output
    study = optuna.load_study(study_name="few", storage=f"sqlite:///{folder / 'optuna.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    scores = [journal.history("val/auroc")[-1][1] for journal in sweep.journals("optim.lr").values()]
    assert sorted(scores) == sorted(trial.value for trial in study.trials)


def test_a_new_ray_listens_only_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs pip install 'pneumo[ray]'")
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path / 'optuna.db'}"
    hold = Hold(tmp_path / "hold", 0)
    sweep = Sweep(tmp_path, "hydra/launcher=ray", *SEARCH, storage, hold=hold)
    try:
        sweep.wait_for(lambda: "begins" in sweep.output)
        listening = []
        for process in psutil.Process(sweep.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                links = process.net_connections("tcp")
                listening += [link.laddr for link in links if link.status == psutil.CONN_LISTEN]
        hold.release()
        assert listening
        assert {address.ip.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}
        searched(tmp_path, sweep)
    finally:
        sweep.kill()


# ---- Slurm

SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm with this machine as its only node, on 127.0.0.1, without accounting."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'pneumo[slurm]'")
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)} (Debian: slurm-wlm)")
    if os.geteuid():
        pytest.skip("slurmd starts jobs for others, so it needs root")
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    names = {"host": socket.gethostname().split(".")[0], "cpus": os.cpu_count(), "folder": folder}
    (folder / "slurm.conf").write_text(SLURM.format(**names, port=free_port(), node_port=free_port()))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = [
        f"--{key}={folder}/munge.{key.split('-')[0]}"
        for key in ("key-file", "socket", "pid-file", "seed-file")
    ]
    daemons = [["munged", "--force", "--foreground", *munge, f"--log-file={folder}/munge.log"]]
    daemons += [["slurmctld", "-D"], ["slurmd", "-D"]]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for line in daemons:
            with (folder / f"{line[0]}.out").open("wb") as out:
                started.append(subprocess.Popen(line, stdout=out, stderr=out, start_new_session=True))
            time.sleep(0.5)
        deadline = time.monotonic() + 120
        while (
            "idle"
            not in (
                status := subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
            ).stdout
        ):
            logs = "".join(file.read_text(errors="replace")[-1000:] for file in folder.glob("*.out"))
            assert time.monotonic() < deadline, f"{status.stdout}{status.stderr}{logs}"
            time.sleep(0.2)
        yield
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], timeout=30)
        time.sleep(1)
        for process in reversed(started):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def in_job(task: int) -> list[psutil.Process]:
    """The Python processes of the array's job `task`."""
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            ours = "submitit.core._submit" in (process.info["cmdline"] or [])
            if (
                ours
                and process.environ().get("SLURM_ARRAY_TASK_ID") == str(task)
                and "SLURM_PROCID" in process.environ()
            ):
                processes.append(process)
    return [process for process in processes if "srun" not in process.name()]


def test_slurm_job_requeued_and_another_killed(tmp_path: Path, slurm: None) -> None:
    keys = [f"hydra.launcher.{key}" for key in ("partition=main", "cpus_per_task=1", "mem_gb=null")]
    hold = Hold(tmp_path / "hold", 2)
    overrides = [*keys, "trainer.epochs=10", "seed=0,1,2,3"]
    sweep = Sweep(tmp_path, "hydra/launcher=submitit_slurm", *overrides, hold=hold)

    def output(task: int) -> str:
        return "".join(file.read_text() for file in tmp_path.rglob(f"*_{task}_0_log.out"))

    try:
        sweep.wait_for(lambda: sweep.epochs("0") >= 2 and sweep.epochs("1") >= 2)
        array = re.findall(r"Slurm job (\d+)_0", sweep.output)[0]
        subprocess.run(["scontrol", "requeue", f"{array}_0"], check=True)
        killed = in_job(1)
        assert killed
        for process in killed:
            process.kill()
        sweep.wait_for(lambda: sweep.epochs("2") >= 1)
        # Slurm sends this signal before the time limit.
        subprocess.run(["scancel", "--signal=USR2", f"{array}_2"], check=True)
        sweep.wait_for(lambda: "the job's time is nearly over" in output(2))
        hold.release()
        code = sweep.end()
    finally:
        sweep.kill()
    assert code == 1
    assert "job 1 (" in sweep.output and "was lost: Slurm job" in sweep.output
    states = {seed: journal.status for seed, journal in sweep.journals().items()}
    assert states == {"0": "FINISHED", "1": "RUNNING", "2": "FINISHED", "3": "FINISHED"}
    for task in (0, 2):
        assert "continues (was KILLED)" in output(task)
        assert ("the job's time is nearly over, after 0 restarts" in output(task)) == (task == 2)
        begun, trained = starts_and_epochs(output(task))
        assert begun.total() == 1 and sorted(trained.values()) == [1] * 10


# ---- Optuna


def test_search_in_slurm(tmp_path: Path, slurm: None) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'pneumo[optuna]'")
    keys = [f"hydra.launcher.{key}" for key in ("partition=main", "cpus_per_task=1", "mem_gb=null")]
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path / 'optuna.db'}"
    sweep = Sweep(tmp_path, "hydra/launcher=submitit_slurm", *keys, *SEARCH, storage)
    try:
        searched(tmp_path, sweep)
    finally:
        sweep.kill()


def test_search_killed_and_issued_again(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'pneumo[optuna]'")
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    command = [
        *("hydra/sweeper=pneumo_optuna", "hydra.sweeper.study=tiny", f"hydra.sweeper.storage={storage}"),
        *("hydra.sweeper.n_trials=12", "hydra.sweeper.n_startup_trials=3", "hydra.sweeper.n_warmup_steps=0"),
        *("optim.lr=tag(log, interval(1e-6, 1e-2))", "model.dropout=choice(0.0, 0.3)"),
        *("augment=none", "trainer.epochs=3"),
    ]

    def trials() -> list[optuna.trial.FrozenTrial]:
        with suppress(KeyError, Exception):
            return optuna.load_study(study_name="tiny", storage=storage).trials
        return []

    hold = Hold(tmp_path / "hold", 3)
    first = Sweep(tmp_path, *command, hold=hold)
    try:
        first.wait_for(lambda: re.search(r"search\.trial=4\b[\s\S]*epoch   1", first.output))
        hold.allow(0)
        second = Sweep(tmp_path, *command)
        assert second.end() == 1 and "another process continues the search" in second.output
    finally:
        first.kill()
    left = trials()
    assert left[-1].state.name == "RUNNING"
    again = Sweep(tmp_path, *command)
    try:
        assert again.end() == 0, again.output  # a pruned trial is not a failure
    finally:
        again.kill()
    done = trials()
    states = Counter(trial.state.name for trial in done)
    assert len(done) == 12 and states["COMPLETE"] + states["PRUNED"] == 12 and states["PRUNED"] >= 1, states
    assert [trial.params for trial in done[: len(left)]] == [trial.params for trial in left]
    study = optuna.load_study(study_name="tiny", storage=storage)
    finished = [Journal(file.parent) for file in again.outputs.glob("*/journal.jsonl")]
    scores = [
        max(value for _, value in journal.history("val/auroc"))
        for journal in finished
        if journal.status == "FINISHED"
    ]
    assert len(finished) == len({str(trial.params) for trial in done})
    assert study.best_value == max(scores)
    assert f"best: trial {study.best_trial.number}," in again.output
    assert (again.outputs / "searches" / "tiny" / "search_history.png").stat().st_size > 5000
    (parent,) = [Journal(file.parent) for file in again.outputs.glob("sweeps/*/journal.jsonl")]
    assert parent.status == "FINISHED"
    assert parent.history("best/score")[-1][1] == study.best_value
    (best,) = [run for run in finished if run.folder.name == parent.tags_logged["pneumo.best_fingerprint"]]
    assert best.params_logged["model.dropout"] == study.best_trial.params["model.dropout"]
    assert "figures/search_history.png" in parent.artifacts
