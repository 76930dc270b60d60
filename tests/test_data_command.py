"""`pneumo data`: what it prints, what it downloads and how it ends."""

import csv
import shutil
import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from support.commands import Command
from support.images import make_kaggle, picture, save, textured

from pneumo.data_command import KAGGLE_HANDLE

SMALL = ("data.image_size=32", "data.num_workers=1")


def test_check_reports_everything(kaggle: Path, command: Command) -> None:
    folder = kaggle / "train" / "NORMAL"
    shutil.copy(folder / "IM-0001-0001.jpeg", folder / "IM-0001-0009.jpeg")
    (folder / "notes.txt").write_text("x")
    ending = command("data", "check", f"data.root={kaggle}", *SMALL)
    assert ending.code == 0, ending.err
    for words in (
        f"chest_xray in {kaggle}",
        "val         4 images of",
        "test       16 images of 8 patients: 8 NORMAL, 8 PNEUMONIA (4 bacteria, 8 normal, 4 virus)",
        "identical bytes: 1 files repeat another one",
        "unreadable files: 0",
        "note: 1 files without an image's suffix were left out: train/NORMAL/notes.txt",
        "digest: ",
        "result: ready to train on",
    ):
        assert words in ending.out, (words, ending.out)
    assert not ending.err


def test_check_names_each_problem_and_ends_with_1(kaggle: Path, command: Command) -> None:
    (kaggle / "train" / "NORMAL" / "IM-0001-0091.jpeg").write_bytes(b"")
    save(picture(0, 5), kaggle / "test" / "NORMAL" / "IM-0002-0009.jpeg")
    shutil.copy(
        kaggle / "train" / "NORMAL" / "IM-0003-0001.jpeg", kaggle / "test" / "NORMAL" / "IM-0701-0009.jpeg"
    )
    ending = command("data", "check", f"data.root={kaggle}", *SMALL)
    assert ending.code == 1
    assert "IM-0001-0091.jpeg: the file is empty" in ending.out and "result: 3 problems" in ending.out
    assert "IM-2" in ending.err and "identical bytes" in ending.err and "on_bad_image=skip" in ending.err
    assert "Traceback" not in ending.err
    ending = command("data", "check", f"data.root={kaggle}", "data.on_bad_image=skip", *SMALL)
    assert ending.code == 1 and "result: 2 problems" in ending.out


def test_check_of_a_table_without_patients_warns(tmp_path: Path, command: Command) -> None:
    for split, first in (("train", 0), ("test", 20)):
        lines = ["path,label"]
        for number in range(first, first + 12):
            save(picture(number % 2, number), tmp_path / "set" / f"{number}.png")
            lines.append(f"{number}.png,{number % 2}")
        (tmp_path / "set" / f"{split}.csv").write_text("\n".join(lines))
    ending = command("data", "check", "data=csv", f"data.root={tmp_path}/set", *SMALL)
    assert ending.code == 0 and "note: 24 images have no patient" in ending.out
    assert "unknown" in ending.out


def with_a_copy(root: Path) -> tuple[str, str]:
    """Textured pictures in the Kaggle layout. One test image is a train image, saved again: their paths."""
    make_kaggle(root, patients=4, images=1, test_patients=2)
    for number, file in enumerate(sorted(root.rglob("*.jpeg"))):
        save(textured(number), file)
    first, second = "train/NORMAL/IM-0001-0001.jpeg", "test/NORMAL/IM-0701-0001.jpeg"
    with Image.open(root / first) as image:
        image.resize((130, 130)).crop((3, 2, 126, 127)).save(root / second, quality=60)
    return first, second


def test_check_finds_a_train_image_that_was_saved_again_in_test(tmp_path: Path, command: Command) -> None:
    first, second = with_a_copy(tmp_path / "set")
    keys = (f"data.root={tmp_path}/set", "data.image_size=96", "data.num_workers=1", "data.val_fraction=0.3")
    ending = command("data", "check", *keys)
    assert ending.code == 1 and "result: 1 problems" in ending.out, ending.out
    assert "1 certain, 0 uncertain" in ending.out and "data.near_copies=allow" in ending.err
    assert first in ending.err and second in ending.err and "Traceback" not in ending.err
    ending = command("data", "check", *keys, "data.near_copies=allow")
    assert ending.code == 0 and "result: ready to train on" in ending.out and not ending.err
    assert first in ending.out and second in ending.out
    ending = command("data", "check", *keys[:1], "data.image_size=32", *keys[2:])
    assert ending.code == 0 and "not looked for below data.image_size=64" in ending.out
    ending = command("data", "check", *keys, "data.near_copies=maybe")
    assert ending.code == 2 and "error, allow" in ending.err


def test_check_leaves_a_large_set_to_the_command_for_copies(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = with_a_copy(tmp_path / "set")
    monkeypatch.setattr("pneumo.data.copies.MOST_IMAGES", 5)
    keys = (f"data.root={tmp_path}/set", "data.image_size=96", "data.num_workers=1", "data.val_fraction=0.3")
    ending = command("data", "check", *keys)
    assert ending.code == 0 and "`pneumo data copies`" in ending.out
    ending = command("data", "copies", *keys, "output=pairs.csv")
    assert ending.code == 0 and "1 certain and 0 uncertain" in ending.out, ending.err
    (row,) = csv.DictReader((tmp_path / "pairs.csv").open())
    assert {row["first"], row["second"]} == {first, second} and row["certain"] == "true"
    assert row["label"] == row["other_label"] == "NORMAL" and float(row["correlation"]) > 0.88
    ending = command("data", "copies", keys[0], "data.image_size=32")
    assert ending.code == 1 and "data.image_size=32 is too small; give 64" in ending.err


def test_labels_writes_a_ranking_of_all_images(kaggle: Path, tmp_path: Path, command: Command) -> None:
    wrong = kaggle / "train" / "NORMAL" / "IM-0003-0001.jpeg"
    for number, file in enumerate(sorted(kaggle.rglob("*.jpeg"))):
        drawn = textured(number, 64) // 3
        drawn[:, : 32 if "PNEUMONIA" in str(file) or file == wrong else 64] += 80  # one side or both
        save(drawn, file)
    ending = command("data", "labels", f"data.root={kaggle}", *SMALL, f"output={tmp_path}/r/ranking.csv")
    assert ending.code == 0, ending.err
    rows = [*csv.DictReader((tmp_path / "r" / "ranking.csv").open())]
    assert len(rows) == 60 and "of 60 labels are suspect" in ending.out
    assert rows[0]["path"] == "train/NORMAL/IM-0003-0001.jpeg" and rows[0]["suspect"] == "true"
    assert rows[0]["label"] == "NORMAL" and rows[0]["suggested"] == "PNEUMONIA"
    assert "train/NORMAL/IM-0003-0001.jpeg" in ending.out
    blocked = command("data", "labels", f"data.root={kaggle}", *SMALL, "output=/proc/x.csv")
    assert blocked.code == 1 and "output=/proc/x.csv cannot be written" in blocked.err


def test_shortcuts_prints_an_interval_for_each_part(kaggle: Path, command: Command) -> None:
    for file in (kaggle / "train" / "NORMAL").iterdir():
        with Image.open(file) as image:
            image.resize((90, 60)).save(file, "PNG")
    ending = command("data", "shortcuts", f"data.root={kaggle}", *SMALL)
    assert ending.code == 0, ending.err
    lines = {line.split("  ")[0]: line.split()[-3:] for line in ending.out.splitlines()}
    for part in ("all", "size", "aspect ratio", "file type", "JPEG quality", "border", "mean level"):
        auroc, low, high = map(float, lines[part])
        assert 0 <= low <= auroc <= high <= 1, part
    assert float(lines["file type"][0]) > 0.7 and "of 60 images of 30 patients" in ending.out
    ending = command("data", "shortcuts", "data=phantom")
    assert ending.code == 1 and "data=phantom has no files" in ending.err


def test_the_cache_is_listed_and_pruned_only_when_asked(
    kaggle: Path, tmp_path: Path, command: Command
) -> None:
    folder = f"cache_dir={tmp_path}/cache"
    assert f"{tmp_path}/cache holds nothing" in command("data", "cache", "list", folder).out
    for rule in (1, 2):
        assert command("data", "cache", f"data.root={kaggle}", f"data.pixels={rule}", *SMALL).code == 0
    listed = command("data", "cache", "list", folder)
    assert listed.code == 0 and "32 px, pixel rule 2, crop_black, equalize" in listed.out
    assert "made by pixel rule 1; the newest is 2" in listed.out and "pneumo data cache prune" in listed.out
    kept = sorted((tmp_path / "cache").iterdir())
    dry = command("data", "cache", "prune", folder)
    assert dry.code == 0 and "dry_run=false would remove these 1 entries" in dry.out
    assert sorted((tmp_path / "cache").iterdir()) == kept
    gone = command("data", "cache", "prune", folder, "dry_run=false")
    assert gone.code == 0 and "removed 1 entries" in gone.out
    assert len(kept) - len([*(tmp_path / "cache").iterdir()]) == 1
    assert "nothing to remove" in command("data", "cache", "prune", folder, "dry_run=false").out
    everything = command("data", "cache", "prune", f"data.{folder}", "unused_days=0", "dry_run=false")
    assert everything.code == 0 and not [*(tmp_path / "cache").glob("*.json")]
    wrong = command("data", "cache", "prune", folder, "unused_days=-1")
    assert wrong.code == 2 and "unused_days=-1" in wrong.err


def nih(root: Path, patients: int = 16) -> Path:
    """Synthetic rows in the columns of the NIH set; every fourth patient has both classes."""
    lines = ["Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"]
    for number in range(1, patients + 1):
        for k in range(2):
            label = int(number % 2 == 1 or (number % 4 == 0 and k == 1))
            name = f"{number:08d}_{k:03d}.png"
            save(picture(label, 2 * number + k), root / "images" / name)
            lines.append(f"{name},{'Effusion|Pneumonia' if label else 'No Finding'},{number},40,F,PA")
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def test_check_of_a_table_as_it_is(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    root = nih(tmp_path / "set")
    save(picture(0, 99), root / "COVID19" / "a.png")
    monkeypatch.chdir(root)
    ending = command(
        "data", "check", "data=csv", "data.table=labels.csv", "data.positive=[Pneumonia]", *SMALL
    )
    assert ending.code == 0, ending.err
    for words in (
        f"csv in {root}",
        "columns: path 'Image Index', label 'Finding Labels', patient 'Patient ID', subgroups 'Patient ",
        "note: not used: COVID19/ (1 images)",
        "note: the set has no test images: 20 % of the images of each class, by patient",
        "note: 4 patients have images of both classes; all images of a patient are in one split",
        "result: ready to train on",
    ):
        assert words in ending.out, (words, ending.out)
    assert "outputs" not in ending.out
    ending = command("data", "check", "data=csv", "data.table=labels.csv", *SMALL)
    assert ending.code == 1 and "data.positive=[Pneumonia]" in ending.err and ending.err.count("\n") == 1
    (tmp_path / "elsewhere").mkdir()
    (root / "images").rename(tmp_path / "elsewhere" / "images")
    ending = command(
        "data", "check", "data=csv", "data.table=labels.csv", "data.positive=[Pneumonia]", *SMALL
    )
    assert ending.code == 1 and ending.err.count("\n") == 1 and "none of the 32 images exists" in ending.err


def test_long_lists_of_unreadable_files_are_short(tmp_path: Path, command: Command) -> None:
    root = nih(tmp_path / "set")
    lines = [f"{number}x/gone.png,No Finding,{number},40,F,PA" for number in range(1000, 3000)]
    (root / "labels.csv").write_text("\n".join([(root / "labels.csv").read_text(), *lines]))
    table = ("data=csv", f"data.table={root}/labels.csv", "data.positive=[Pneumonia]")
    ending = command("data", "check", *table, *SMALL)
    assert ending.code == 1 and "unreadable files: 2000" in ending.out
    assert "and 1,990 more: No such file or directory" in ending.out and ending.out.count("gone.png") == 10
    (listing,) = (tmp_path / "cache").glob("unreadable-*.txt")
    assert (
        f"all 2,000 are listed in {listing}" in ending.out and len(listing.read_text().splitlines()) == 2000
    )
    ending = command("train", *table, "trainer.epochs=1", *SMALL)
    assert ending.code == 1 and len(ending.err.splitlines()) < 20


def test_a_large_set_is_checked_without_preparing_it(
    kaggle: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumo import data_command

    (kaggle / "train" / "NORMAL" / "IM-0001-0091.jpeg").write_bytes(b"no image")
    arguments = ("data", "check", f"data.root={kaggle}", "data.on_bad_image=skip", *SMALL)
    monkeypatch.setattr(data_command, "MOST_PREPARED", 60)
    large = command(*arguments)
    assert large.code == 0 and "IM-0001-0091.jpeg: not a JPEG" in large.out
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    monkeypatch.setattr(data_command, "MOST_PREPARED", 61)
    small = command(*arguments)
    assert small.out == large.out
    assert [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]


@pytest.mark.parametrize(
    ("column", "same"),
    [("patient_id", "P1"), ("Patient ID", "101.0"), ("Patient", "00000101"), ("MRN", " 101 ")],
)  # fmt: skip
def test_a_patient_in_two_splits_is_never_ready(
    tmp_path: Path, command: Command, column: str, same: str
) -> None:
    for split, first in (("train", 0), ("test", 20)):
        lines = [f"path,label,{column}"]
        for number in range(first, first + 12):
            save(picture(number % 2, number), tmp_path / "set" / f"{number}.png")
            patient = (
                ("101" if split == "test" and same != "P1" else same) if number == first else f"9{number}"
            )
            lines.append(f"{number}.png,{number % 2},{patient}")
        (tmp_path / "set" / f"{split}.csv").write_text("\n".join(lines))
    ending = command("data", "check", "data=csv", f"data.root={tmp_path}/set", *SMALL)
    assert ending.code == 1 and "1 patients are in more than one split" in ending.err
    assert "ready to train on" not in ending.out


def test_cache_prepares_ahead(kaggle: Path, command: Command, tmp_path: Path) -> None:
    ending = command("data", "cache", f"data.root={kaggle}", *SMALL)
    assert ending.code == 0 and f"60 images of 32 px are ready in {tmp_path}/cache" in ending.out
    (kaggle / "train" / "NORMAL" / "IM-0001-0001.jpeg").write_bytes(b"")
    ending = command("data", "cache", f"data.root={kaggle}", *SMALL)
    assert ending.code == 1 and "the file is empty" in ending.err and "Traceback" not in ending.err


def test_phantom_is_checked_like_any_set(command: Command) -> None:
    sizes = ("data.phantom.train_patients=12", "data.phantom.test_patients=8")
    ending = command("data", "check", "data=phantom", *sizes, *SMALL)
    assert ending.code == 0 and "phantom" in ending.out and "ready to train on" in ending.out


@pytest.mark.parametrize("arguments", [(), ("chek",), ("data=phantom",)])
def test_an_unknown_action_shows_the_usage(command: Command, arguments: tuple[str, ...]) -> None:
    ending = command("data", *arguments)
    assert ending.code == 2 and "sage: pneumo data fetch|check|cache" in ending.err and not ending.out


def test_help(command: Command) -> None:
    ending = command("data", "--help")
    assert ending.code == 0 and "fetch" in ending.out and not ending.err
    of_check = command("data", "check", "-h")
    assert (
        of_check.code == 0
        and "data=chest_xray|chexpert|covid_radiography|csv|kermany3|nih14|phantom|rsna" in of_check.out
    )
    assert "\nmodel=" not in of_check.out and of_check.out.count("  pneumo data check") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("check", "data.root=nowhere"), 1, ["nowhere", "`pneumo data fetch", "data=phantom"]),
        (("check", "data.rot=nowhere"), 2, ["data.rot", "data.root"]),
        (("chekc",), 2, ["'chekc' is not a sub-command", "Did you mean check?"]),
        (("check", "data=cvs"), 2, ["data=cvs", "csv, kermany3, nih14, phantom", "Did you mean csv?"]),
        (("fetch", "data=phantom"), 1, ["data=phantom"]),
    ],
)
def test_wrong_usage(command: Command, arguments: tuple[str, ...], code: int, words: list[str]) -> None:
    ending = command("data", *arguments)
    assert ending.code == code and "Traceback" not in ending.err
    assert all(word in ending.err for word in words), ending.err


# ---- fetch: everything around the download call


@pytest.fixture
def kagglehub(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A stand-in that keeps a cache as kagglehub does; `fail_after` images it loses the connection."""
    import os

    monkeypatch.setenv("KAGGLEHUB_CACHE", "unset")
    hub = types.SimpleNamespace(calls=0, fail=False, path=None)

    def dataset_download(handle: str, path: str | None = None, **options: object) -> str:
        assert handle == KAGGLE_HANDLE and not options
        hub.calls += 1
        folder = Path(os.environ["KAGGLEHUB_CACHE"]) / "datasets" / handle / "versions" / "2"
        archive = folder.parent / "2.archive"
        archive.parent.mkdir(parents=True, exist_ok=True)
        hub.resumed = archive.exists()
        if hub.fail:
            archive.write_bytes(b"half")
            raise ConnectionError("connection reset by peer\nand more lines")
        archive.unlink(missing_ok=True)
        return str(hub.path or make_kaggle(folder / "chest_xray", patients=3).parent)

    module = types.ModuleType("kagglehub")
    module.dataset_download = dataset_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return hub


def test_fetch_then_check(tmp_path: Path, command: Command, kagglehub: types.SimpleNamespace) -> None:
    (tmp_path / "xrays").mkdir()  # an empty folder is taken
    ending = command("data", "fetch", f"data.root={tmp_path}/xrays", *SMALL)
    assert ending.code == 0, ending.err
    assert "result: ready to train on" in ending.out
    assert (tmp_path / "xrays" / "chest_xray" / "train" / "NORMAL").is_dir()
    assert not (tmp_path / ".xrays.part").exists()
    again = command("data", "fetch", f"data.root={tmp_path}/xrays", *SMALL)
    assert again.code == 0 and "already" in again.out and kagglehub.calls == 1


def test_a_broken_fetch_is_kept_and_goes_on(
    tmp_path: Path, command: Command, kagglehub: types.SimpleNamespace
) -> None:
    kagglehub.fail = True
    ending = command("data", "fetch", "data.root=some/where/xrays", *SMALL)
    assert ending.code == 1 and "connection reset by peer" in ending.err and "more lines" not in ending.err
    assert "is kept" in ending.err and "by hand" in ending.err and "Traceback" not in ending.err
    assert not (tmp_path / "some/where/xrays").exists()
    assert [*(tmp_path / "some/where/.xrays.part").rglob("2.archive")]
    kagglehub.fail = False
    ending = command("data", "fetch", "data.root=some/where/xrays", *SMALL)
    assert ending.code == 0 and kagglehub.resumed
    assert (tmp_path / "some/where/xrays").is_dir() and not (tmp_path / "some/where/.xrays.part").exists()


def test_fetch_does_not_touch_other_files(
    tmp_path: Path, command: Command, kagglehub: types.SimpleNamespace
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        ending = command("data", "fetch", f"data.root={tmp_path}/{name}", *SMALL)
        assert ending.code == 1 and "holds something else" in ending.err and not kagglehub.calls
    assert (tmp_path / "full" / "thesis.txt").read_text() == "x"


def test_a_mounted_set_is_named(tmp_path: Path, command: Command, kagglehub: types.SimpleNamespace) -> None:
    kagglehub.path = tmp_path / "kaggle" / "input"
    ending = command("data", "fetch", f"data.root={tmp_path}/xrays", *SMALL)
    assert ending.code == 1 and f"data.root={tmp_path}/kaggle/input" in ending.err


def test_without_kagglehub_it_says_how(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    ending = command("data", "fetch", f"data.root={tmp_path}/xrays")
    assert ending.code == 1 and "pip install 'pneumo[fetch]'" in ending.err and KAGGLE_HANDLE in ending.err
    assert not (tmp_path / "xrays").exists()
