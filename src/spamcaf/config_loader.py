"""Kedro's configuration loader, with names as they are typed, settings by their present names, and absolute paths.

YAML reads the section `1_1` as 11 and the gene `1e3` as 1000.0: names are taken as the text that was typed, on
the command line (`as_typed`) and in files (`as_written`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml
from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf

from spamcaf.errors import InputError, did_you_mean, first_line, is_fault_of_ours
from spamcaf.limits import MAX_JSON_BYTES, read_bytes
from spamcaf.names import is_no_image
from spamcaf.parameters import GENE_LISTS, RUN_CHOICES, SHORT_NAMES, rename_deprecated

SECTIONS = ("sections", "benchmark.sections")
LISTS = ("other_sections", *SECTIONS, *GENE_LISTS)
TEXTS = (*RUN_CHOICES, *SECTIONS, *GENE_LISTS)
MAY_BE_NULL = ("image", "bin_um", "backbone_source")
LEADING_ZEROS = re.compile(r"^0+(?=[0-9]+$)")
WRITTEN = ("globals", "parameters")  # configuration that holds names of sections, paths and genes
PATHS = ("filepath", "image", "labels", "features", "source", "raw_root")
"""Keys of catalog entries that are paths, unless a scheme such as hf-hub: leads elsewhere."""
GENE_FILE = re.compile(r"[^\n]+\.(txt|csv|tsv)", re.IGNORECASE)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_PACKAGE = Path(__file__).parent
# the configuration of an installed wheel; an editable installation has the source tree's alone
PACKED = next((conf for conf in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if conf.is_dir()), _PACKAGE / "conf")
LONGEST_PART = 255  # bytes of a file's name


def as_typed(item: str) -> str:
    """Return an item of --params, `key=value`, quoted where YAML would read a name, a path or a gene as a number.

    A value that is quoted already stays as it is, and so does `null` where a choice may be left out. Other settings
    are numbers or words of YAML; only a leading 0 is taken away, which would make them octal.
    """
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals:
        return item
    if key not in TEXTS:
        return f"{key}={LEADING_ZEROS.sub('', value)}"
    if key in LISTS and re.fullmatch(r"\[.*\]", value):
        value = value[1:-1].strip()
        if not value:
            return f"{key}=[]"
    if value[:1] in {"'", '"'} or (key in MAY_BE_NULL and value in {"", "null"}):
        return f"{key}={value}"
    doubled = value.replace("'", "''")
    return f"{key}='{doubled}'"


def as_written(loaded: Any, written: Any, place: str = "") -> Any:  # noqa: ANN401  whatever a file holds
    """Return `loaded`, what YAML made of a file, with the names, paths and genes as the file has them.

    `written` is the same file with every scalar as its text (yaml.BaseLoader), `place` the dotted key of both.
    """
    if isinstance(loaded, dict) and isinstance(written, dict):
        places = {key: f"{place}.{key}" if place else str(key) for key in loaded}
        return {key: as_written(value, written.get(str(key)), places[key]) for key, value in loaded.items()}
    if place not in TEXTS:
        return loaded
    if isinstance(loaded, list) and isinstance(written, list):
        return [_either(*pair) for pair in zip(loaded, written, strict=True)]
    if loaded is None and place in {*MAY_BE_NULL, *LISTS}:
        return None
    return _either(loaded, written)


def _either(loaded: Any, written: Any) -> Any:  # noqa: ANN401  whatever a file holds
    return written if isinstance(written, str) and not isinstance(loaded, str) else loaded


def _text_of(name: str, value: Any) -> Any:  # noqa: ANN401  whatever a session was given
    """Return the text of a choice that a session was given; raise InputError where it cannot be known."""
    if value is None and name in {*MAY_BE_NULL, *LISTS}:
        return None
    if name in LISTS and isinstance(value, list | tuple):
        return [_text_of(name, part) for part in value]
    if isinstance(value, float) and name == "bin_um":
        return f"{value:g}"
    if isinstance(value, bool) or not isinstance(value, str | PurePath | int):
        raise InputError(
            f"{name} = {value!r}, which is no text.",
            "the text as it is written: YAML reads 1e3 as 1000.0 and true as a yes.",
            f"Quote it: --params \"{name}='...'\".",
        )
    if "${" in str(value) or str(value) == "???":
        next_step = "Fill in what stands between the braces."
        raise InputError(f"{name} = {value}.", "a text without placeholders.", next_step)
    return str(value)


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, with six additions.

    Names are texts as typed. Settings with an old name are renamed in each source, before sources are merged. Paths of
    the catalog start at the project's root, wherever a session runs, and `~` is the home folder (Kedro makes only
    `filepath` absolute, kedro-org/kedro#2942). Credentials are always complete: those of the environment replace those
    of `conf/local`, which Kedro would not read beside another environment, and no token means the hub's login.
    A gene set (`evaluation.gene_sets`) that is the path of a file is replaced by the names in it.
    Beside the package's own configuration, an environment may be a folder `conf/<env>` of the working directory, in the
    place of the package's where that has one of the name.
    """

    def __init__(
        self,
        conf_source: str | Path,
        env: str | None = None,
        runtime_params: dict[str, Any] | None = None,
        **others: Any,  # noqa: ANN401  whatever Kedro's loader takes
    ) -> None:
        self._is_packed = Path(conf_source).absolute() == PACKED
        self.project_root = Path.cwd() if self._is_packed else Path(conf_source).absolute().parent
        """Where relative paths start; a hook replaces it where `conf/` lies outside of the project."""
        self._reported: set[str] = set()  # old names that were warned of: Kedro reads its parameters several times
        given = {k: _text_of(k, v) if k in TEXTS else v for k, v in (runtime_params or {}).items()}
        for short in SHORT_NAMES.keys() & given.keys():
            group, name = SHORT_NAMES[short]
            given[group] = {**given.get(group, {}), name: given.pop(short)}
        super().__init__(conf_source, env, self._renamed(given), **others)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the configuration of `key`."""
        if key == "catalog":
            return {name: _placed(entry, self.project_root) for name, entry in super().__getitem__(key).items()}
        if key == "parameters":
            return _with_gene_files(super().__getitem__(key), self.project_root)
        if key != "credentials" or key in self.data:
            return super().__getitem__(key)
        try:
            own = super().__getitem__("credentials")
        except MissingConfigException:
            own = {}
        return {"huggingface": {"token": None}, **self._local_credentials(), **own}

    def _get_conf_env_path(self, env: str) -> str:
        own = self.project_root / "conf" / env
        if self._is_packed and env != self.base_env and own.is_dir():
            return str(own)
        path = str(super()._get_conf_env_path(env))
        if self._protocol == "file" and env == self.env and not os.path.isdir(path):
            places = [Path(path).parent, *([own.parent] if self._is_packed else [])]
            known = sorted({each.name for place in places for each in place.glob("*/") if each.name != self.base_env})
            raise InputError(
                f"no environment '{env}', a folder {path}.",
                f"one of {', '.join(known)}.",
                f"{did_you_mean(env, known)}Choose one: --env <name>.",
            )
        return path

    def _is_hidden(self, path_str: str) -> bool:
        roots = [self.project_root / "conf", Path(self.conf_source)]
        inside = [Path(path_str).relative_to(root) for root in roots if Path(path_str).is_relative_to(root)]
        return super()._is_hidden(path_str) if not inside else any(p.startswith(".") for p in inside[0].parts)

    def _read_dir_configs(self, conf_path: str, patterns: list[str], key: str, *others: Any) -> dict[Path, DictConfig]:  # noqa: ANN401  whatever Kedro's method takes
        try:
            return self._read_as_written(super()._read_dir_configs(conf_path, patterns, key, *others), key)
        except (InputError, MissingConfigException):
            raise
        except Exception as error:  # of YAML, of its keys, of the encoding, or of a link that leads to itself
            if is_fault_of_ours(error):
                raise
            # Kedro wraps some errors without their reason, and counts lines from 0
            original = error.__cause__ if isinstance(error.__cause__, yaml.MarkedYAMLError) else error
            mark, problem = getattr(original, "problem_mark", None), getattr(original, "problem", None)
            line = f", line {mark.line + 1}" if mark else ""
            raise InputError(
                f"{conf_path}/{key}*.yml{line}, which cannot be read ({problem or first_line(error)}).",
                "valid YAML.",
                "Correct it there; a value with other characters than letters and digits needs quotes.",
            ) from error

    def _read_as_written(self, configs: dict[Path, DictConfig], key: str) -> dict[Path, DictConfig]:
        for path, config in configs.items():
            if wrong := [name for name in config if not isinstance(name, str)]:
                raise InputError(f"the key {wrong[0]!r} in {path}.", "names as keys.", "Quote or correct it there.")
        if key not in WRITTEN:
            return configs
        configs = {path: self._as_written(path, config, key) for path, config in configs.items()}
        self._check_duplicates(key, configs)  # again: one file may hold the old name and another the new one
        return configs

    def _as_written(self, path: Path, config: DictConfig, key: str) -> DictConfig:
        with self._fs.open(path.as_posix()) as file:
            written = yaml.load(file.read().decode(), Loader=yaml.BaseLoader)  # noqa: S506  makes texts and nothing else
        settings = as_written(OmegaConf.to_container(config), written)
        return OmegaConf.create(self._renamed(settings) if key == "parameters" else settings)

    def _renamed(self, settings: dict[str, Any]) -> dict[str, Any]:
        groups = {name: values for name, values in settings.items() if isinstance(values, Mapping)}
        return settings | {name: rename_deprecated(name, values, self._reported) for name, values in groups.items()}

    def _local_credentials(self) -> dict[str, Any]:
        # not through a second OmegaConfigLoader: its resolvers are global and would replace this one's globals
        files = sorted(Path(self._get_conf_env_path(self.default_run_env)).glob("credentials*.y*ml"))
        merged = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)), resolve=True) if files else {}
        return {str(name): value for name, value in merged.items()} if isinstance(merged, dict) else {}


def _with_gene_files(parameters: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return the parameters with the genes in place of the path of each gene set that is given as a file."""
    evaluation = parameters.get("evaluation")
    sets = evaluation.get("gene_sets") if isinstance(evaluation, Mapping) else None
    if not isinstance(evaluation, Mapping) or not isinstance(sets, Mapping):
        return parameters
    read = {name: _read_genes(name, value, root) if _is_file(value) else value for name, value in sets.items()}
    return {**parameters, "evaluation": {**evaluation, "gene_sets": read}}


def _is_file(genes: object) -> bool:
    return isinstance(genes, str) and GENE_FILE.fullmatch(genes.strip()) is not None


def _read_genes(name: str, path: str, root: Path) -> list[str]:
    file, setting = Path(_absolute(path.strip(), root)), f"evaluation.gene_sets.{name}"
    try:
        lines = read_bytes(file, MAX_JSON_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        found = f"{file} ({setting}), which cannot be read ({first_line(error)})."
        raise InputError(found, "a text file with a gene on each line.", f"Correct {setting}.") from error
    genes = re.findall(r"[^\s,;]+", "\n".join(line.partition("#")[0] for line in lines))
    if not genes:
        raise InputError(f"no gene in {file} ({setting}).", "a gene on each line.", f"Correct {setting}.")
    return genes


def _placed(entry: Any, root: Path) -> Any:  # noqa: ANN401  whatever a catalog holds
    """Return an entry of the catalog with all its paths absolute; a backbone's name may be a folder."""
    if not isinstance(entry, dict):
        return entry
    # the source of a section is a choice, that of a backbone a path
    paths = [key for key in PATHS if key != "source" or "section" not in entry]
    if is_no_image(entry.get("image")):
        paths.remove("image")
    placed = {
        key: _absolute(value, root) if key in paths and isinstance(value, str) else _placed(value, root)
        for key, value in entry.items()
    }
    name = placed.get("name")
    if "backbones" in placed and isinstance(name, str) and name not in placed["backbones"]:
        folder = _absolute(name, root)
        has_model = os.path.isfile(os.path.join(folder, "config.json"))
        if name.startswith(("~", ".")) or has_model or ("/" in name and os.path.isdir(folder)):
            placed["name"] = folder
    return placed


def _absolute(path: str, root: Path) -> str:
    if SCHEME.match(path):
        return path
    absolute = os.path.join(root, os.path.expanduser(path))
    if any(len(os.fsencode(part)) > LONGEST_PART for part in absolute.split("/")):
        found = f"the path {absolute[:LONGEST_PART]}..., with a name of more than {LONGEST_PART} bytes."
        raise InputError(found, "a path that a file system can hold.", "Correct it.")
    return absolute
