"""The option files in conf/ as they were when the command started. Hydra composes every job from these.

Hydra reads an option file again for each job, but the dataclasses that check its keys are loaded once: a
`git pull` during a sweep would add keys that this process does not know.
"""

import io
import posixpath
from pathlib import PurePosixPath

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from pneumo.config_files import shipped_dir

SCHEME = "pneumo"


class OptionFiles(metaclass=Singleton):
    """The content of every file in conf/, by its path there, and the folders.

    OptionFiles() is the same object for a whole process. Launchers give Hydra's singletons to the processes
    of their jobs, so that those have the files of the process that started the sweep.
    """

    def __init__(self) -> None:
        folder = shipped_dir("conf")
        files = [file for file in folder.rglob("*.yaml") if file.is_file()]
        self.contents = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        self.folders = {str(above) for file in self.contents for above in PurePosixPath(file).parents}


class LoadedSource(ConfigSource):
    """conf/ from memory, for Hydra; in all else like Hydra's FileConfigSource."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def available(self) -> bool:
        return bool(OptionFiles().contents)

    def is_group(self, config_path: str) -> bool:
        return posixpath.normpath(config_path) in OptionFiles().folders

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path) in OptionFiles().contents

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        if file not in OptionFiles().contents:
            raise ConfigLoadError(f"{self.full_path()} has no {file}")
        text = OptionFiles().contents[file].decode()
        stream = io.StringIO(text)
        stream.name = posixpath.join(self.path, file)  # for yaml's errors
        header = self._get_header_dict(text[:512])
        config = OmegaConf.load(stream)
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header=header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        group = posixpath.normpath(config_path)
        found: list[str] = []
        for path in map(PurePosixPath, (*OptionFiles().contents, *OptionFiles().folders)):
            if path.name and str(path.parent) == group:
                self._list_add_result(found, str(path), path.name, results_filter)
        return sorted(found)

    def _file(self, config_path: str) -> str:
        return self._normalize_file_name(posixpath.normpath(config_path))


class LoadedInsteadOfFolder(SearchPathPlugin):
    """Puts the loaded files where Hydra's search path has the folder conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.path == str(shipped_dir("conf")):
                element.path = f"{SCHEME}://{element.path}"


def register() -> None:
    """Load the option files, the first time, and let Hydra compose from what was loaded."""
    OptionFiles()
    for plugin in (LoadedSource, LoadedInsteadOfFolder):
        Plugins.instance().register(plugin)
