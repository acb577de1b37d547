"""One trained run that the tests of the tools share."""
from pathlib import Path
from typing import NamedTuple

import pytest

from support import toy_detection
from support.commands import printed


class Toy(NamedTuple):
    """A folder with a data set, its config, and what a first run of two epochs left in ``run/``."""

    folder: Path
    config: Path
    run: Path
    output: str


@pytest.fixture(scope='session')
def toy(tmp_path_factory) -> Toy:
    """Train the toy detector for two epochs, TensorBoard switched on in the config."""
    folder = tmp_path_factory.mktemp('toy')
    toy_detection.write_dataset(folder / 'data')
    config = folder / 'toy.py'
    config.write_text(toy_detection.config_text(folder / 'data', train_cfg=dict(max_epochs=2), visualizer=dict(
        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])))
    output = printed('train', config, '--work-dir', 'run', cwd=folder)
    return Toy(folder, config, folder / 'run', output)
