"""The checks that run before anything is written, in their order.

A check is a function in a file of this folder. It yields a `Problem` for everything that is wrong with its argument, or
raises `ProblemError`. To add a check, add a function and a line here.
"""
import pkgutil
from typing import Any, Iterator, Sequence

from mmrev.problems import Problem, ProblemError, one_line

MACHINE = (  # each takes `machine.Facts`; causes before consequences
    'machine.imports',
    'machine.gpu',
    'machine.versions',
)
CONFIG = (  # each takes a `plan.Plan`; a check comes after those whose results it needs
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
    'config.keys',
    'config.training',
    'checkpoint.start',
    'checkpoint.pretrained',
    'model.channels',
)


def problems(checks: Sequence[str], subject: Any) -> Iterator[Problem]:
    """Yield everything that these checks find, in their order.

    An exception in a check is ignored if another check has found a problem, because the problem may be its cause.

    Args:
        checks: `MACHINE` or `CONFIG`.
        subject: Argument of the checks.
    """
    found = 0
    for name in checks:
        check = pkgutil.resolve_name(f'{__name__}.{name.replace(".", ":")}')
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
