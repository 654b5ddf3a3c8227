"""Reading `conf/`: as Kedro does, and the hub's credentials in every environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import OmegaConf


class ProjectConfigLoader(OmegaConfigLoader):
    """Kedro's loader, with credentials that are always complete.

    A run with `--env her2st` would not see `conf/local/credentials.yml`, and a catalog entry that names credentials
    fails where there are none. Here the environment's own win over local ones, and no token stands for the hub's login.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return the configuration of `key`."""
        if key != "credentials" or key in self.data:
            return super().__getitem__(key)
        return {"huggingface": {"token": None}, **self._local_credentials(), **self._own_credentials()}

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
