"""Reading `conf/`: as Kedro does, with names as they are written, paths from one root, and the hub's credentials."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf

from spamcaf.errors import InputError, first_line
from spamcaf.typed import as_written, texts_of

WRITTEN = ("globals", "parameters")
"""Configuration that holds names of sections, paths and genes."""
PATHS = ("filepath", "image", "labels", "features", "source")
"""Keys of catalog entries that are paths, unless a scheme such as hf-hub: leads elsewhere."""
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
LONGEST_PART = 255
"""Bytes of a file's name."""


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, with names as texts, paths from the project's root, and credentials that are always complete.

    YAML reads the section `1_1` as 11: what names something is taken as it is written. Kedro makes only `filepath`
    absolute (kedro-org/kedro#2942): here every path of the catalog starts at the project's root, wherever a session
    runs, and `~` is the home folder. A run with `--env her2st` would not see `conf/local/credentials.yml`, and a
    catalog entry that names credentials fails where there are none: here the environment's own win over local ones,
    and no token stands for the hub's login.
    """

    def __init__(
        self,
        conf_source: str | Path,
        env: str | None = None,
        runtime_params: dict[str, Any] | None = None,
        **others: Any,  # noqa: ANN401  whatever Kedro's loader takes
    ) -> None:
        self.project_root = Path(conf_source).absolute().parent
        """Where relative paths start; a hook replaces it where `conf/` lies outside of the project."""
        super().__init__(conf_source, env, texts_of(runtime_params or {}), **others)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the configuration of `key`."""
        if key == "catalog":
            return {name: _placed(entry, self.project_root) for name, entry in super().__getitem__(key).items()}
        if key != "credentials" or key in self.data:
            return super().__getitem__(key)
        return {"huggingface": {"token": None}, **self._local_credentials(), **self._own_credentials()}

    def _read_dir_configs(self, conf_path: str, patterns: list[str], key: str, *others: Any) -> dict[Path, DictConfig]:  # noqa: ANN401  whatever Kedro's method takes
        try:
            configs = super()._read_dir_configs(conf_path, patterns, key, *others)
        except yaml.YAMLError as error:
            raise _unreadable(f"{conf_path}/{key}*.yml", error) from error
        if key not in WRITTEN:
            return configs
        return {path: self._as_written(path, config) for path, config in configs.items()}

    def _as_written(self, path: Path, config: DictConfig) -> DictConfig:
        with self._fs.open(path.as_posix()) as file:
            written = yaml.load(file.read().decode(), Loader=yaml.BaseLoader)  # noqa: S506  makes texts and nothing else
        return OmegaConf.create(as_written(OmegaConf.to_container(config), written))

    def _own_credentials(self) -> dict[str, Any]:
        try:
            return super().__getitem__("credentials")
        except MissingConfigException:
            return {}

    def _local_credentials(self) -> dict[str, Any]:
        # not through a second OmegaConfigLoader: its resolvers are global and would replace this one's globals
        files = sorted((Path(self.conf_source) / self.default_run_env).glob("credentials*.y*ml"))
        merged = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)), resolve=True) if files else {}
        return {str(name): value for name, value in merged.items()} if isinstance(merged, dict) else {}


def _unreadable(files: str, error: yaml.YAMLError) -> InputError:
    # Kedro tells of some errors without what is wrong, and counts lines from 0
    original = error.__cause__ if isinstance(error.__cause__, yaml.MarkedYAMLError) else error
    mark = getattr(original, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    return InputError(
        f"{files}{line}, which cannot be read ({getattr(original, 'problem', None) or first_line(error)}).",
        "valid YAML.",
        "Correct it there; a value with other signs than letters and digits needs quotes.",
    )


def _placed(entry: Any, root: Path) -> Any:  # noqa: ANN401  whatever a catalog holds
    """Return an entry of the catalog with all its paths absolute; a backbone's name may be a folder."""
    if not isinstance(entry, dict):
        return entry
    placed = {
        key: _absolute(value, root) if key in PATHS and isinstance(value, str) else _placed(value, root)
        for key, value in entry.items()
    }
    name = placed.get("name")
    if "backbones" in placed and isinstance(name, str) and name not in placed["backbones"]:
        placed["name"] = _folder_or_name(name, root)
    return placed


def _folder_or_name(name: str, root: Path) -> str:
    folder = _absolute(name, root)
    has_model = os.path.isfile(os.path.join(folder, "config.json"))
    is_folder = name.startswith(("~", ".")) or has_model or ("/" in name and os.path.isdir(folder))
    return folder if is_folder else name


def _absolute(path: str, root: Path) -> str:
    if SCHEME.match(path):
        return path
    absolute = os.path.join(root, os.path.expanduser(path))
    if any(len(os.fsencode(part)) > LONGEST_PART for part in absolute.split("/")):
        raise InputError(
            f"the path {absolute[:LONGEST_PART]}..., with a name of more than {LONGEST_PART} bytes.",
            "a path that a file system can hold.",
            "Correct it.",
        )
    return absolute
