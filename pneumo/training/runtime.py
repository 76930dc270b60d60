"""Where and how numbers are computed: device, precision, seeds and the process group."""

import ctypes
import gc
import importlib.util
import logging
import math
import os
import random
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from pneumo import UserError
from pneumo.models.precision import allow_tf32, autocast_dtype
from pneumo.training.settings import TrainerSettings

# cuBLAS reads this once, at its first use in a process. It must be set even if a sweep's first job does not
# need it, because a later job in the same process may be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@dataclass
class Runtime:
    """What the trainer computes on. `autocast_dtype` is None for float32 and TF32; `tf32` marks TF32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    compile: bool = False
    rank: int = 0
    world_size: int = 1
    tf32: bool = False

    @property
    def precision(self) -> str:
        names = {None: "tf32" if self.tf32 else "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[self.autocast_dtype]

    def autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def wait_for_all(self) -> None:
        """Return when every process has called this."""
        if self.world_size > 1:
            self.sum(torch.zeros(1, device=self.device)).item()

    def gather(self, values: Tensor) -> Tensor:
        """[n_rank, K] of every process, stacked to [N, K] in rank order; the counts may differ."""
        if self.world_size == 1:
            return values
        counts = torch.zeros(self.world_size, dtype=torch.int64, device=values.device)
        counts[self.rank] = len(values)
        sizes = self.sum(counts).tolist()
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


@dataclass(frozen=True)
class Resolved:
    """What `auto` means on this machine. Nothing is opened to find out."""

    device_name: str  # cpu, or the GPU's name
    precision: str
    world_size: int


TORCH_VERSION = str(torch.__version__)  # its own class would make saved states unreadable


def resolve(settings: TrainerSettings) -> Resolved:
    """The device, precision and number of processes that `open_runtime` will use."""
    device = _device(settings.device)
    planned = Runtime(device, autocast_dtype(settings.precision, device), tf32=settings.precision == "tf32")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Resolved(name, planned.precision, int(os.environ.get("WORLD_SIZE", 1)))


def open_runtime(settings: TrainerSettings) -> Runtime:
    """The runtime for `settings` on this machine. Under torchrun, it also opens the process group."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if settings.batch_size < 2 * world_size:
        raise UserError(
            f"trainer.batch_size={settings.batch_size} leaves {world_size} processes fewer than two images "
            f"each. All processes share the batch; set it to at least {2 * world_size}."
        )
    device = _device(settings.device)
    if settings.sync_batchnorm and world_size > 1 and device.type != "cuda":
        raise UserError(
            "trainer.sync_batchnorm=true needs CUDA devices: torch synchronises BatchNorm only there. Set "
            "trainer.sync_batchnorm=false; then each process normalises its share of a batch."
        )
    if device.type == "cuda":
        allow_tf32(settings.precision == "tf32")
        torch.backends.cudnn.benchmark = not settings.deterministic
        torch.cuda.set_device(device)
    else:
        _keep_memory()
    torch.use_deterministic_algorithms(settings.deterministic)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Runtime(
        device,
        autocast_dtype(settings.precision, device),
        _compiles(settings.compile, device, rank),
        rank,
        world_size,
        tf32=settings.precision == "tf32",
    )


def close_runtime(runtime: Runtime) -> None:
    if runtime.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def isolated() -> Iterator[None]:
    """For a job of a sweep: restore this process afterwards, whatever the job did and however it ended."""
    threads, dtype, matmul = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        if dist.is_initialized():
            gc.collect()  # a failed job's DistributedDataParallel must be gone before its process group is
            dist.destroy_process_group()
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(matmul)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = cudnn
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        root.setLevel(level)
        root.handlers[:] = handlers
        gc.collect()  # cycles of frames and closures keep a failed job's model alive
        gc.freeze()  # only modules are left; collecting them after every job would take 0.3 s
        _c_library("malloc_trim", 0)  # what _keep_memory kept
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def seed_everything(seed: int) -> None:
    """Seed every generator that initial weights or a library may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory since `forget_peak_memory`, in MiB: of tensors on a GPU, or of the whole process on a CPU.

    The CPU figure is Linux's (nan on other systems).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    return math.nan


def usage(device: torch.device) -> dict[str, float]:
    """Use of the machine under MLflow's names: of all cores since the last call, of memory and GPU now.

    A GPU's utilization needs the package nvidia-ml-py, and is left out without it.
    """
    memory = psutil.virtual_memory()
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found["system/gpu_0_memory_usage_percentage"] = 100 * (1 - free / total)
        with suppress(ImportError, RuntimeError):
            found["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization(device))
    return found


def forget_peak_memory(device: torch.device) -> None:
    """Start counting the peak again: the jobs of a sweep share a process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _device(name: str) -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"trainer.device={name} is not known; the options are auto, cpu, cuda, cuda:0, ...")
    if device.type == "cpu":
        return device
    if device.index is None or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        device = torch.device("cuda", local_rank)  # with several processes, each has a separate device
    count = torch.cuda.device_count()
    if device.index >= count:
        raise UserError(
            f"trainer.device={name}: this machine has {count} CUDA devices that torch can use, but this "
            f"process needs device {device.index}. Set trainer.device=cpu or auto, or use fewer processes."
        )
    return device


def _compiles(wanted: str, device: torch.device, rank: int) -> bool:
    """Whether the network is compiled: with `auto`, on CUDA if torch.compile has all that it needs."""
    if wanted != "auto":
        return wanted == "true"
    missing = _missing_to_compile(device) if device.type == "cuda" else None
    if missing and rank == 0:
        print(f"note: trainer.compile=auto does not compile, which is slower: {missing}")
    return device.type == "cuda" and missing is None


def _missing_to_compile(device: torch.device) -> str | None:
    """What torch.compile lacks for a CUDA device, or None: Triton builds a C module when it starts."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "Triton does not support a GPU as old as this one"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: gcc or clang on the PATH, or CC"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Triton needs Python's header files (the system's package is often named python3-dev)"
    return None


def _keep_memory() -> None:
    """Let glibc reuse the memory of large tensors instead of returning it to the system.

    Otherwise every step requests the memory of its activations again, page by page. A step of DenseNet-121
    (16 images, 224 px) then has 393,000 page faults and takes 49 ms of system time per image instead of 5.
    For ResNet-18 it is 12 ms instead of 1. The results are the same to the last bit. Resident memory grows by
    about a tenth.
    """
    no_mappings, keep_free_top = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    _c_library("mallopt", no_mappings, 0)
    _c_library("mallopt", keep_free_top, 2**31 - 1)


def _c_library(function: str, *values: int) -> None:
    """Call a glibc function with integers, if it exists."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), function):
        getattr(library, function)(*values)
