"""What can be wrong, looked for before anything is written: the lists of checks, in the order in which they run.

A check is a function in one of the files of this folder. It takes what is checked and yields a `Problem` for each thing
that is wrong, or raises `ProblemError`. A new check is a function, and a line here.
"""
import importlib
from typing import Any, Iterator, Sequence

from mmrev.problems import Problem, ProblemError, one_line

MACHINE = (  # causes before consequences; each takes `machine.Facts`
    'machine.imports',
    'machine.gpu',
    'machine.versions',
)
CONFIG = (  # what others need comes first; each takes `config.Plan`
    'config.sections',
    'config.scope',
    'config.environment',
    'data.files',
    'config.entries',
    'config.numbers',
    'model.build',
    'model.norm_decay',
    'data.pipelines',
    'data.dataloaders',
    'data.metrics',
    'data.classes',
    'config.training',
    'checkpoint.start',
    'checkpoint.pretrained',
    'model.channels',
    'model.bfloat16_on_cpu',
)


def problems(checks: Sequence[str], subject: Any) -> Iterator[Problem]:
    """Everything that these checks find, in their order.

    A check that fails after another one has found something is not counted: it may rely on what was found to be wrong.

    Args:
        checks: `MACHINE` or `CONFIG`.
        subject: What they take.
    """
    found = 0
    for name in checks:
        module, _, function = name.partition('.')
        check = getattr(importlib.import_module(f'{__name__}.{module}'), function)
        try:
            for problem in check(subject):
                found += 1
                yield problem
        except ProblemError as error:
            found += 1
            yield Problem(error.what, error.fix, error.__cause__ or error)
        except Exception as error:
            if not found:
                yield Problem(f'checking {name}: {one_line(error)}', 'Run again with --traceback, and report it', error)
