"""Which files are predicted: images below a folder, no link out of it, several inputs in order."""

from pathlib import Path

import pytest
from support.images import picture, save
from support.model_runs import image_folder

from pneumo import UserError
from pneumo.inference import inputs, output


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


def test_a_name_never_leads_out_of_the_folder_of_overlays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    root = inputs.common_root(["../a", "../b/x.png"])
    assert inputs.relative_name(Path("../b/x.png"), root) == Path("b/x.png")
    root = inputs.common_root(["x.png", "../in/x.png"])
    assert inputs.relative_name(Path("x.png"), root) == Path("x.png")


def test_what_a_prediction_wrote_is_not_its_input(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, 1)
    own = output.own_files(folder / "out.csv")
    for path in own[:3]:
        path.touch()
    save(picture(0, 2), own[3] / "0.png.png")
    other = folder / "deeper" / "other_overlays"
    save(picture(0, 3), other / "0.png.png")
    found = inputs.find(folder, own)
    assert found.files == [str(folder / "0.png"), str(other / "0.png.png")] and not found.left_out
    (other / inputs.OVERLAYS_MARK).touch()
    assert inputs.find(folder, own).files == [str(folder / "0.png")]
    assert len(inputs.find(folder).left_out) == 3
