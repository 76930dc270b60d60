"""Killed in the middle of each kind of file that a run writes: the same command ends as if undisturbed.

`python tools/kill_and_resume.py --kills 40 --torn 10` does more, with ResNet-18 and kills at random moments.
"""

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
# Which of these files is torn, where it is not the first one. The journal lines hold an epoch's figures and
# the test scores. The latter come before the files are recorded, and so before the tracker has its copies.
TURN = {"an early journal line": 2, "a figure": 4, "a late journal line": 3, "the tracker's weights": 2}


def test_a_kill_inside_every_kind_of_write_leaves_no_trace(tmp_path: Path) -> None:
    tiny = {"PNEUMO_TEST_TINY": "on"}
    whole = Side(tmp_path / "whole", LINE, warm=True, environment=tiny)
    assert whole.start().wait() == 0, whole.output
    killed = Side(tmp_path / "killed", LINE, warm=True, environment=tiny)
    for kind, (_, pattern) in TORN.items():
        code = killed.start(PNEUMO_TEST_TEAR=f"{TURN.get(kind, 1)} {pattern}").wait()
        assert code == -signal.SIGKILL, f"{kind}: {code}\n{killed.output}"
    assert killed.start().wait() == 0, killed.output
    assert differences(whole.folder, killed.folder) == []
