"""A run keeps the threads that the user gave, node by node, whatever libraries do to the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spamcaf.compute import NUMBA_VARIABLE, THREAD_VARIABLES

RUN = """
import sys
from pathlib import Path
from kedro.framework.hooks import hook_impl
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

class Watch:
    @hook_impl
    def before_node_run(self, node):
        self.show("before", node)

    @hook_impl
    def after_node_run(self, node):
        self.show("after", node)

    def show(self, when, node):
        import torch
        print("threads", torch.get_num_threads(), when, node.short_name)

project = Path(sys.argv[1])
bootstrap_project(project)
params = {"compute": {"threads": int(sys.argv[2])}} if len(sys.argv) > 2 else {}
session = KedroSession.create(project, env="tiny", runtime_params=params)
session._hook_manager.register(Watch())
session.run()
"""


@pytest.mark.parametrize(("variable", "setting", "expected"), [("1", [], "1"), ("1", ["2"], "2")])
def test_threads_are_the_same_before_and_after_every_node(
    finished: Path, variable: str, setting: list[str], expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*THREAD_VARIABLES, NUMBA_VARIABLE)}
    environment[THREAD_VARIABLES[0]] = variable
    command = [sys.executable, "-c", RUN, str(finished), *setting]
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [line.split() for line in done.stdout.splitlines() if line.startswith("threads ")]
    assert len(seen) > 40
    assert {words[1] for words in seen} == {expected}
