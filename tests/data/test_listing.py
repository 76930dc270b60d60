"""What is below a root: counted, compared and named."""

from pathlib import Path

import pytest

from pneumo import UserError
from pneumo.data import listing


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_clutter_hidden_folders_and_the_cache_are_left_out(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "a.png",
        "._a.png",
        "__MACOSX/a.png",
        ".git/a.png",
        ".git/b",
        "cache/x.npy",
        "b/.note",
        "b/.c.png",
    )
    assert listing.scan(tmp_path, [tmp_path / "cache"]).files == ["a.png", "b/.c.png"]


def test_folders_behind_links_are_not_entered(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = listing.scan(tmp_path)
    assert found.files == ["a/1.png", "a/loop", "b"] and found.links == {"a/loop", "b"}
    assert listing.unused(found, listing.with_targets(found, ["b/1.png"])) == ["a/loop"]


def test_more_files_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 3)
    with pytest.raises(UserError, match="more than 3 files"):
        listing.scan(tree(tmp_path, *(f"{number}.png" for number in range(4))))


@pytest.mark.parametrize(
    ("missing", "found", "words"),
    [
        ("set/a/1.png", "a/1.png", "data.path_prefix=set/"),
        ("A/1.PNG", "a/1.png", "another case"),
        ("a/1", "a/1.png", "add .png"),
        ("a/1.jpg", "a/1.png", "write .png"),
        ("c/2.png", "b/2.png", "another folder"),
    ],
)
def test_the_nearest_name(tmp_path: Path, missing: str, found: str, words: str) -> None:
    close = listing.nearest(listing.scan(tree(tmp_path, "a/1.png", "b/2.png", "b/note.txt")), missing)
    assert close is not None and close[0] == found and words in close[1]
    assert listing.nearest(listing.scan(tmp_path), "c/3.png") is None


def test_contents_name_folders_tables_and_archives(tmp_path: Path) -> None:
    assert listing.contents(tmp_path) == "It is empty."
    tree(tmp_path, "a/b/1.png", "a/2.png", "3.png", "t.csv", "all.tar.gz")
    (tmp_path / "empty").mkdir()
    assert listing.contents(tmp_path) == (
        "It has a/ (2 images), empty/, 1 images, all.tar.gz, t.csv. "
        "all.tar.gz is an archive: unpack it first."
    )
