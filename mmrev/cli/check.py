"""``mmrev check``: print all problems of a config before a run."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command
from mmrev.problems import ProblemError


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev check') -> int:
    """Print the problems of a config; return 0 if there are none, otherwise 2."""
    parser = Parser(prog, description='Print all problems of a config.')
    add_config_arguments(parser)
    parser.add_argument('--data', action='store_true', help='also read every annotation and image')
    return run_command(parser, check, argv)


def check(args: argparse.Namespace) -> None:
    """Look for problems without writing anything."""
    cfg = load_config(args)
    from mmrev.apis.data_check import unreadable
    from mmrev.diagnosis.plan import Plan
    splits = tuple(split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader') is not None)
    problems = [*Plan(cfg, splits or ('train', ), whole=args.data).problems()]
    found = 0
    for found, problem in enumerate(problems or (unreadable(cfg, splits) if args.data else ()), 1):
        print(f'{found}. {problem.what}\n   {problem.fix}', flush=True)
    if found:
        raise ProblemError(f'{found} problem{"s" if found > 1 else ""} in {args.config}', 'Each is named above')
    print(f'No problem found in {args.config}')
