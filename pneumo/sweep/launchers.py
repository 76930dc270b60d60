"""The jobs of a sweep on Ray or Slurm. Both start a killed job again by themselves, and its run continues."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from pneumo import UserError, config
from pneumo.text import first_line

# A job on another machine gets the command's values of these.
ENVIRONMENT = ("MLFLOW_", "PNEUMO_", "HYDRA_FULL_ERROR")


class ElsewhereLauncher(Launcher):
    """What both share: a lost job ends alone, and the sweep learns of it after all the others."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def collect(
        self, waits: Sequence[Callable[[], JobReturn]], job_overrides: Sequence[Sequence[str]], first: int
    ) -> list[JobReturn]:
        """What the jobs return. A lost job is named on stderr, and returns a UserError as its failure."""
        returns = []
        for number, (wait, overrides) in enumerate(zip(waits, job_overrides, strict=True), first):
            try:
                returns.append(wait())
            except UserError as error:
                message = f"job {number} ({', '.join(overrides)}) was lost: {error}"
                config.complain(message)
                returns.append(lost(overrides, UserError(f"{message}. The same command tries it again.")))
        return returns


def lost(overrides: Sequence[str], error: Exception) -> JobReturn:
    """The return value for a job that ended without one."""
    returned = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    returned.return_value = error
    return returned


def _missing(package: str, extra: str) -> UserError:
    return UserError(f"{package} is not installed: pip install 'pneumo[{extra}]'")


# ---- Ray

# A private Ray for this command: nobody else can reach or use it, and its jobs keep their priority.
OWN_RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the name misleads: without it Ray listens on every address
    "RAY_enable_metrics_collection": "false",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
}


@dataclass
class TaskWithEnvironment:
    """The task with the command's environment variables, on any machine. It is pickled."""

    task: TaskFunction
    environment: dict[str, str]

    def __call__(self, composed: DictConfig) -> Any:
        os.environ.update(self.environment)
        return self.task(composed)


class RayLauncher(ElsewhereLauncher):
    """Jobs as Ray tasks, in a private Ray or on a cluster (hydra.launcher.ray.init.address)."""

    def __init__(self, ray: DictConfig) -> None:
        options: Any = OmegaConf.to_container(ray, resolve=True)
        self.init: dict[str, Any] = {k: v for k, v in options["init"].items() if v is not None}
        self.remote: dict[str, Any] = options["remote"]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, as many at a time as there are slots, and return what each returned."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        self._open()
        from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray

        environment = {key: value for key, value in os.environ.items() if key.startswith(ENVIRONMENT)}
        task = TaskWithEnvironment(self.task_function, environment)
        waits = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            print(f"#{number}: {' '.join(overrides)}")
            composed = self._compose(list(overrides), number)
            handle = launch_job_on_ray(
                self.hydra_context, OmegaConf.create(self.remote), composed, task, Singleton.get_state()
            )
            waits.append(lambda handle=handle: self._wait(handle))
        return self.collect(waits, job_overrides, initial_job_idx)

    def _open(self) -> None:
        """Connect to the cluster, or start a Ray that only this machine and this command can talk to."""
        init = dict(self.init)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # a line that two jobs print is shown twice
        if "address" not in init:
            os.environ |= {**OWN_RAY, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        try:
            import ray
        except ModuleNotFoundError:
            raise _missing("Ray", "ray") from None
        if ":" in init.get("address", "") and "/" not in init["address"]:
            host, _, port = init["address"].rpartition(":")
            try:  # Ray itself tries for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            except (OSError, ValueError) as error:
                raise UserError(f"hydra.launcher.ray.init.address={init['address']}: {error}") from None
        if not ray.is_initialized():
            if "address" not in init:
                # 80 MB: a job's arguments and its score are all that passes through the object store.
                own = {"address": "local", "include_dashboard": False, "object_store_memory": 80_000_000}
                init = own | init
            try:
                ray.init(**init)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise UserError(f"hydra.launcher.ray.init={self.init}: {error}") from None
        if self.remote.get("num_gpus") is None:  # a whole GPU each where there are any
            self.remote["num_gpus"] = min(1, ray.cluster_resources().get("GPU", 0))
        for name in ("CPU", "GPU"):
            wanted, most = self.remote[f"num_{name.lower()}s"], ray.cluster_resources().get(name, 0)
            if wanted > most:  # Ray would wait for ever
                raise UserError(
                    f"hydra.launcher.ray.remote.num_{name.lower()}s={wanted}: Ray has {most:g} in all."
                )

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        """The job's configuration with everything resolved that depends on folder or environment."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(composed):
            composed.hydra.job.id = f"ray-{number}"
            composed.hydra.job.num = number
            for key in composed:
                if key != "hydra" and OmegaConf.is_config(composed._get_node(key)):
                    OmegaConf.resolve(composed[key])
            composed.output_dir = str(Path(composed.output_dir).expanduser().absolute())
            OmegaConf.resolve(composed.hydra.sweeper)
        return composed

    @staticmethod
    def _wait(handle: Any) -> JobReturn:
        import ray

        try:
            return ray.get(handle)
        except ray.exceptions.RayError as error:
            raise UserError(first_line(error)) from None


# ---- Slurm


@dataclass
class Restartable:
    """The published launcher's job, which Slurm may take away and start again. It is pickled."""

    job: Callable[..., JobReturn]
    max_restarts: int

    def __call__(self, *arguments: Any) -> JobReturn:
        config.register()
        # submitit would raise inside a training step; requeued by Slurm, the run gets SIGTERM and saves.
        signal.signal(signal.SIGUSR2, self._restart_in_time)
        return self.job(*arguments)

    def _restart_in_time(self, number: int, frame: FrameType | None) -> None:
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        print(f"Slurm: the job's time is nearly over, after {restarts} restarts", flush=True)
        if restarts < self.max_restarts:
            array = os.environ.get("SLURM_ARRAY_JOB_ID")
            name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", name], timeout=60)
        else:
            os.kill(os.getpid(), signal.SIGTERM)


class SlurmLauncher(ElsewhereLauncher):
    """Jobs as one Slurm array, by submitit; the keys are those of the published launcher."""

    def __init__(self, max_restarts: int, **params: Any) -> None:
        self.max_restarts = max_restarts
        self.params: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in params.items()
        }

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs and wait until all of them have left Slurm."""
        try:
            import submitit
            from hydra_plugins.hydra_submitit_launcher import config as published
            from hydra_plugins.hydra_submitit_launcher import submitit_launcher
        except ModuleNotFoundError:
            raise _missing("submitit", "slurm") from None
        common = {*published.BaseQueueConf.__dataclass_fields__} - {"submitit_folder"}
        params = {
            key if key in common else f"slurm_{key}": value
            for key, value in self.params.items()
            if key != "submitit_folder" and value is not None
        }
        try:
            executor = submitit.AutoExecutor(self.params["submitit_folder"], cluster="slurm")
            executor.update_parameters(**params)
        except (RuntimeError, ValueError, NameError) as error:
            raise UserError(f"hydra/launcher=submitit_slurm: {error}") from None
        job = submitit_launcher.SlurmLauncher(**self.params)
        job.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        submitit.SlurmJob.watcher = _watcher()
        state = Singleton.get_state()
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"slurm-{number}", state)
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        try:
            jobs = executor.map_array(Restartable(job, self.max_restarts), *zip(*arguments, strict=True))
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"Slurm takes no jobs: {error}") from None
        for number, (submitted, overrides) in enumerate(
            zip(jobs, job_overrides, strict=True), initial_job_idx
        ):
            print(f"#{number}: Slurm job {submitted.job_id}: {' '.join(overrides)}")
        print(f"output in {submitted.paths.folder}; Ctrl-C ends the waiting, scancel the jobs", flush=True)
        waits = [lambda submitted=submitted: self._wait(submitted) for submitted in jobs]
        return self.collect(waits, job_overrides, initial_job_idx)

    @staticmethod
    def _wait(submitted: Any) -> JobReturn:
        try:
            return submitted.results()[0]
        except Exception as error:
            if not type(error).__module__.startswith("submitit"):
                raise
            last = (submitted.stderr() or str(error)).strip().splitlines()[-1]
            raise UserError(f"Slurm job {submitted.job_id} is {submitted.state}: {last}") from None


def _watcher() -> Any:
    """Asks squeue for the states. submitit asks sacct, which does not know dead jobs without accounting."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Watcher(SlurmInfoWatcher):
        def update(self) -> None:
            waiting = self._registered - self._finished
            for array in {name.split("_")[0] for name in waiting}:
                command = [
                    "squeue",
                    "--noheader",
                    "--array",
                    "--states=all",
                    "--format=%i %T",
                    "--jobs",
                    array,
                ]
                answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
                if answer.returncode and "Invalid job id" not in answer.stderr:
                    continue  # the controller does not answer: ask again later
                states = dict(line.split() for line in answer.stdout.splitlines())
                for name in waiting:
                    if name.split("_")[0] == array:  # Slurm forgets a job some minutes after its end
                        self._info_dict[name] = {"State": states.get(name, "GONE")}
            self._finished |= {name for name in waiting if self.is_done(name, mode="cache")}
            self._last_status_check = time.time()

    return Watcher(delay_s=30)
