"""Which files are predicted: images below a folder, no link out of it, several inputs in order."""

from pathlib import Path

import pytest
from support.images import picture, save
from support.model_runs import image_folder

from pneumo import UserError
from pneumo.inference import inputs


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 2)
    secret = save(picture(0, 3), tmp_path / "secret" / "other.png")
    (folder / "out.png").symlink_to(secret)
    (folder / "in.png").symlink_to("0.png")
    (folder / "away").symlink_to(secret.parent)
    found = inputs.find(folder)
    assert [Path(path).name for path in found.files] == ["0.png", "1.png", "in.png"]
    assert [Path(path).name for path in found.outside] == ["out.png"]
    assert found.left_out == [f"{folder}/away (a link)"]
    with pytest.raises(UserError, match="contains no image"):
        inputs.find(save(picture(0, 1), tmp_path / "empty" / "x.txt").parent)


def test_several_inputs_keep_their_order_and_each_file_comes_once(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 3)
    (folder / "notes.txt").touch()
    other = save(picture(1, 9), tmp_path / "other" / "a.png")
    found = inputs.find_all([str(other), str(folder), str(folder / "1.png")])
    assert found.files == [str(other), *(f"{folder}/{number}.png" for number in range(3))]
    assert found.left_out == [f"{folder}/notes.txt"]
    assert inputs.find_all([]).files == []


def test_names_are_relative_to_what_the_inputs_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inputs.common_root(["in"]) == Path("in")
    assert inputs.relative_name(Path("in/deep/x.png"), Path("in")) == Path("deep/x.png")
    assert inputs.relative_name(Path("x.png"), Path("x.png")) == Path("x.png")
    root = inputs.common_root(["in/a", "in/b/x.png"])
    assert root == tmp_path / "in"
    assert inputs.relative_name(Path("in/b/x.png"), root) == Path("b/x.png")
