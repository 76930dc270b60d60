"""Killed in the middle of each kind of file that a run writes: the same command ends as if undisturbed.

`python tools/kill_and_resume.py --kills 40 --torn 10` does more, with ResNet-18 and kills at random moments.
"""

import shutil
import signal
from pathlib import Path

from kill_and_resume import TORN, Side
from support.commands import small_run
from support.tracked import differences

LINE = small_run(
    train_patients=24,
    test_patients=8,
    epochs=3,
    more=["data.num_workers=1", "trainer.precision=float32", "trainer.deterministic=true"],
)
# Which of these files is torn, where it is not the first one. The second journal line of a start that goes on
# holds an epoch's figures.
TURN = {"an early journal line": 2, "the tracker's weights": 2}
KINDS = [kind for kind in TORN if kind != "a late journal line"]


def test_a_kill_inside_every_kind_of_write_leaves_no_trace(tmp_path: Path, empty_store: Path) -> None:
    whole, killed = (
        Side(tmp_path / name, LINE, warm=True, environment={"PNEUMO_TEST_TINY": "on"})
        for name in ("whole", "killed")
    )
    for side in (whole, killed):
        side.folder.mkdir()
        shutil.copy(empty_store, side.folder / "mlflow.db")
    assert whole.start().wait() == 0, whole.output
    for kind in KINDS:
        code = killed.start(PNEUMO_TEST_TEAR=f"{TURN.get(kind, 1)} {TORN[kind][1]}").wait()
        assert code == -signal.SIGKILL, f"{kind}: {code}\n{killed.output}"
    assert killed.start().wait() == 0, killed.output
    assert differences(whole.folder, killed.folder) == []
