"""The entries of `downloads` in globals.yml: URLs, sizes and hashes of published files, and their paths by section."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Name = Annotated[str, BeforeValidator(str)]  # YAML reads 151507 as a number
Hash = Annotated[str, BeforeValidator(lambda text: str(text).lower()), Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(gt=0)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


@dataclass(frozen=True)
class RemoteFile:
    """One file of one section. Paths are relative to the data set's folder, with `/` on every system."""

    path: str
    urls: tuple[str, ...] = ()  # mirrors, the first is tried first
    sha256: str | None = None
    bytes: int | None = None
    unpack: Literal["tar", "zip"] | None = None
    yields: tuple[str, ...] = ()  # what the archive holds and is needed
    by_hand: str = ""  # where a person finds it; such a file has no URL, and its path may be a pattern
    allow_http: bool = False


class FileSpec(BaseModel):
    """One entry of `downloads`. `{section}` stands for the section's name, `{name}` for its value in `names`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="where the file belongs, relative to raw_root")
    urls: Texts = Field((), description="one URL or several mirrors; https only")
    sections: tuple[Name, ...] = Field((), description="sections that have this file; none named means all")
    names: dict[Name, str] = Field(default_factory=dict, description="value of {name} by section; only these have it")
    sha256: Hash | dict[Name, Hash] | None = Field(None, description="of the whole file, or by section")
    bytes: Size | dict[Name, Size] | None = Field(None, description="size, or by section")
    unpack: Literal["tar", "zip"] | None = Field(None, description="unpacked into the archive's own folder")
    yields: tuple[str, ...] = Field((), description="files that the archive gives, relative to its folder")
    by_hand: str = Field("", description="in place of URLs: where a person finds the file; path may be a pattern")
    allow_http: bool = Field(False, description="accept http, which anyone on the way can change")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if bool(self.urls) == bool(self.by_hand):
            raise ValueError("a file should have either urls or by_hand")
        if bool(self.unpack) != bool(self.yields):
            raise ValueError("unpack and yields belong together")
        if "*" in self.path and not self.by_hand:
            raise ValueError("only the path of a file by_hand may be a pattern")
        uses_name = any("{name}" in text for text in (self.path, *self.urls))
        if uses_name and not (self.names and self.known == frozenset(self.names)):
            raise ValueError("every section of a file with {name} should be one of names")
        for url in self.urls:
            if not is_safe(url, self.allow_http):
                raise ValueError(f"URLs should begin with https://, found {url!r}")
        for path in (self._fill(path, name) for name in {*self.known, "any"} for path in (self.path, *self.yields)):
            parts = PurePosixPath(path).parts
            if path.startswith("/") or "\\" in path or ":" in path or not parts or ".." in parts:
                raise ValueError(f"paths should stay inside raw_root, found {path!r}")
        return self

    @property
    def known(self) -> frozenset[str]:
        """The sections that this entry names, none where it is for all."""
        return frozenset(self.sections) | frozenset(self.names)

    def of(self, section: str) -> RemoteFile | None:
        """Return the file of `section`, or None where it has none."""
        if self.known and section not in self.known:
            return None
        return RemoteFile(
            path=self._fill(self.path, section),
            urls=tuple(self._fill(url, section) for url in self.urls),
            sha256=self.sha256.get(section) if isinstance(self.sha256, dict) else self.sha256,
            bytes=self.bytes.get(section) if isinstance(self.bytes, dict) else self.bytes,
            unpack=self.unpack,
            yields=tuple(self._fill(path, section) for path in self.yields),
            by_hand=self._fill(self.by_hand, section),
            allow_http=self.allow_http,
        )

    def _fill(self, text: str, section: str) -> str:
        # not str.format: a URL may hold other braces
        return text.replace("{section}", section).replace("{name}", self.names.get(section, "{name}"))


def is_safe(url: str, allow_http: bool = False) -> bool:
    """Tell whether `url` is https, http of this machine, or http where `allow_http`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and (allow_http or is_here)))
