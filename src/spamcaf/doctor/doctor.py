"""All checks, one after the other; none keeps the others from being made."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.doctor.backbone import check_backbone, read_spec
from spamcaf.doctor.check import Check, attempt, unchecked
from spamcaf.doctor.configuration import NAME as CONFIGURATION
from spamcaf.doctor.configuration import check_configuration
from spamcaf.doctor.inputs import SECTION, check_inputs
from spamcaf.doctor.machine import DEVICE, DISK, MEMORY, check_device, check_disk, check_memory
from spamcaf.doctor.memory import available_bytes
from spamcaf.doctor.need import need_of
from spamcaf.doctor.software import NAME as SOFTWARE
from spamcaf.doctor.software import check_software
from spamcaf.parameters import RunSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedro.framework.context import KedroContext

    from spamcaf.backbones.load import BackboneSpec
    from spamcaf.doctor.configuration import Asked
    from spamcaf.doctor.need import Inputs

BACKBONE = "backbone"


def examine(load_context: Callable[[], KedroContext], root: Path) -> list[Check]:
    """Return every check of the run that `load_context` describes, in the project at `root`. Writes nothing.

    Without a configuration there are no inputs and no backbone to look at; the machine is checked all the same.
    """
    available = available_bytes()  # before the inputs are read
    configured, asked = attempt(CONFIGURATION, partial(check_configuration, load_context))
    if asked is None:
        skipped = [unchecked(SECTION, CONFIGURATION), unchecked(BACKBONE, CONFIGURATION)]
        return [configured, *skipped, *_machine(RunSettings(), root, available)]
    inputs_checked, inputs = check_inputs(asked)
    backbone_checked, _ = attempt(BACKBONE, partial(check_backbone, asked))
    machine = _machine(asked.settings, asked.root, available, inputs, _spec(asked))
    return [configured, *inputs_checked, backbone_checked, *machine]


def _spec(asked: Asked) -> BackboneSpec | None:
    # what is wrong with it, the backbone's own check says
    _, spec = attempt(BACKBONE, lambda: (unchecked(BACKBONE, BACKBONE), read_spec(asked)))
    return spec


def _machine(
    settings: RunSettings,
    root: Path,
    available: int | None,
    inputs: Inputs | None = None,
    spec: BackboneSpec | None = None,
) -> list[Check]:
    width = spec.width if spec else None
    need = need_of(settings, inputs, width) if inputs and width else None
    checks: dict[str, Callable[[], tuple[Check, None]]] = {
        DEVICE: partial(check_device, settings.compute, spec, need),
        MEMORY: partial(check_memory, available, settings, inputs, width),
        DISK: partial(check_disk, root / "data", need),
        SOFTWARE: check_software,
    }
    return [attempt(name, check)[0] for name, check in checks.items()]
