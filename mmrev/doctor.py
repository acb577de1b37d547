"""`mmrev doctor`: show what is installed, whether it works, and commands that fix what does not."""
import argparse
import os
import platform
import sys

from mmrev.cli.common import Parser, run_command
from mmrev.diagnosis import MACHINE, problems
from mmrev.diagnosis.machine import OPTIONAL, PARTS_OF_OTHERS, REQUIRED, Facts, collect
from mmrev.problems import Problem, ProblemError


def main(argv: list[str] | None = None) -> int:
    """Print the report; return 1 if something is wrong."""
    return run_command(Parser('mmrev doctor', description=__doc__), examine, argv)


def examine(args: argparse.Namespace) -> None:
    """Print the report."""
    facts = collect()
    found = list(problems(MACHINE, facts))
    print('\n'.join(report(facts, found)))
    if found:
        raise ProblemError(f'{len(found)} problem{"s" * (len(found) > 1)} found', 'Each is named above', 1)


def report(facts: Facts, found: list[Problem]) -> list[str]:
    """The report, line by line."""
    torch, ops = facts.modules.get('torch', {}), facts.modules.get('mmcv.ops', {})
    compiled = 'not loaded' if not facts.works('mmcv.ops') else f'loaded, CUDA: {ops.get("cuda_ops", "unknown")}'
    lines = ['Versions', row('python', platform.python_version(), sys.executable)]
    lines += [row(name, facts.version(name), state_of(facts, name)) for name in REQUIRED if name not in PARTS_OF_OTHERS]
    lines += ['Devices', row('cpu', f'{os.cpu_count()} cores')]
    lines += [row(f'device {index}', name) for index, name in enumerate(torch.get('devices', []))]
    lines += [row('mmcv ops', compiled), 'Optional']
    lines += [row(name, facts.version(name), f'{state_of(facts, name)} ({purpose})')
              for name, (purpose, _) in OPTIONAL.items()]
    if facts.torch_alone():
        lines.append('Without OpenMMLab: mmrev.reversible, mmrev.layers and mmrev.testing work, models do not.')
    lines.append('Problems found:' if found else 'No problems found.')
    for number, problem in enumerate(found, 1):
        lines += [f'  {number}. {problem.what}', f'     fix: {problem.fix}']
    return lines


def row(name: str, value: str, remark: str = '') -> str:
    """One line of a section."""
    return f'  {name:<12} {value or "-":<14} {remark}'.rstrip()


def state_of(facts: Facts, name: str) -> str:
    """`ok`, `not installed` or `broken`, with the distribution where its name differs."""
    if facts.error(name):
        return 'not installed' if facts.missing(name) else 'broken'
    others = [found for found in facts.distributions.get(name, []) if found != name]
    return 'ok' + (f' ({", ".join(others)})' if others else '')


if __name__ == '__main__':
    sys.exit(main())
