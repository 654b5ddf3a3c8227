"""Project settings of Kedro."""

from spamcaf.config_loader import ProjectConfigLoader
from spamcaf.hooks import OriginGuard, RunLock, SettingsGuard, VizEvents
from spamcaf.preflight import InputGuard
from spamcaf.run_log import RunLog
from spamcaf.run_times import RunTimes
from spamcaf.tracking import Tracking

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"cluster": ["cluster.yml"]},
    # an environment overrides single settings, not the whole of parameters.yml
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
HOOKS = (SettingsGuard(), InputGuard(), OriginGuard(), RunLock(), VizEvents(), RunTimes(), RunLog(), Tracking())
