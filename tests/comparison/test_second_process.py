"""What the second process of a large comparison does is what one process does alone."""

import subprocess
import sys

from support.comparison_runs import candidates, finished

from pneumo.comparison import figures, second_process


def test_a_few_runs_need_no_second_process() -> None:
    assert second_process.start(second_process.MANY_RUNS - 1) is None


def test_a_second_process_draws_and_measures_the_same() -> None:
    comparison = finished(candidates(), draws=50)
    alone = figures.render(comparison)
    process = second_process.start(second_process.MANY_RUNS)
    assert process is not None
    with process:
        assert second_process.render(comparison, process) == alone and len(alone) > 8
        there = second_process.network_cost(process, latency=False)("resnet18", 1, 32, 2)
        assert second_process.network_cost(process, latency=False)("capsnet", 1, 32, 2) == {}
    assert there == second_process.network_cost(None, latency=False)("resnet18", 1, 32, 2)
    assert there["parameters"] > 1e7


def test_only_the_process_that_measures_imports_torch() -> None:
    line = "import sys, pneumo.comparison.page, pneumo.comparison.cost; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
