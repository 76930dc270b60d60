"""The loaded option files are to Hydra what the folder conf/ would be."""

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError

from pneumo.config_files import shipped_dir
from pneumo.config_source import LoadedSource

CONF = shipped_dir("conf")
FOLDERS = ["", *(str(path.relative_to(CONF)) for path in sorted(CONF.rglob("*")) if path.is_dir())]
FILES = [str(path.relative_to(CONF).with_suffix("")) for path in sorted(CONF.rglob("*.yaml"))]
ON_DISK = FileConfigSource("main", str(CONF))
LOADED = LoadedSource("main", f"pneumo://{CONF}")


@pytest.mark.parametrize("path", [*FOLDERS, "hydra/launcher/", "no", "data/no", "train/no", "data/../model"])
def test_the_same_groups_with_the_same_options(path: str) -> None:
    assert LOADED.is_group(path) == ON_DISK.is_group(path)
    if ON_DISK.is_group(path):
        for kind in (None, ObjectType.GROUP, ObjectType.CONFIG):
            assert LOADED.list(path, kind) == ON_DISK.list(path, kind)


@pytest.mark.parametrize("path", [*FILES, "data/csv.yaml", "./data/csv"])
def test_the_same_files_with_the_same_content(path: str) -> None:
    assert LOADED.is_config(path) and ON_DISK.is_config(path)
    loaded, on_disk = LOADED.load_config(path), ON_DISK.load_config(path)
    assert (loaded.config, loaded.header) == (on_disk.config, on_disk.header)
    assert loaded.provider == "main"


@pytest.mark.parametrize("path", ["no", "data", "data/no", "train/no", ""])
def test_what_is_not_a_file_is_not_loaded(path: str) -> None:
    assert not LOADED.is_config(path) and not ON_DISK.is_config(path)
    with pytest.raises(ConfigLoadError):
        LOADED.load_config(path)
