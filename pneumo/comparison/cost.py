"""What a configuration costs: parameters, floating-point operations, time for one image, time to train."""

from collections.abc import Callable, Sequence

from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import ConfigurationRow, Cost


def add(
    rows: Sequence[ConfigurationRow],
    runs: Sequence[Candidate],
    network_cost: Callable[[str, int, int, int], Cost],
) -> None:
    """Put the cost into each of `rows`: of its architecture, and of its runs' training.

    `network_cost` measures an architecture by its name, input channels, image size in pixels and classes.
    """
    by_id = {run.run_id: run for run in runs}
    measured: dict[tuple[str, int, int, int], Cost] = {}
    for row in rows:
        mine = [by_id[run["run_id"]] for run in row["runs"]]
        config = mine[0].config
        name, channels = str(config.get("model.name")), int(config.get("model.in_channels", 3))
        size = int(config.get("data.image_size", 224))
        classes = len(mine[0].test.class_names)
        architecture = (name, channels, size, classes)
        if architecture not in measured:
            measured[architecture] = network_cost(*architecture)
        row["cost"] = {
            **measured[architecture],
            "image_size": size,
            "weights_bytes": mine[0].weights_bytes,
            "device": mine[0].device,
            "images_per_s": _mean(mine, "time/images_per_s"),
            "epoch_s": _mean(mine, "time/epoch_s"),
            "peak_memory_mib": _mean(mine, "memory/peak_mib"),
        }


def _mean(runs: Sequence[Candidate], metric: str) -> float | None:
    values = [run.measured[metric] for run in runs if metric in run.measured]
    return sum(values) / len(values) if values else None
