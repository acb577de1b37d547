"""``mmrev check``: everything that is wrong with a config, before a run."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command
from mmrev.problems import ProblemError


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev check') -> int:
    """Print the problems of a config; return 0 if there are none, otherwise 2."""
    parser = Parser(prog, description='Say everything that is wrong with a config.')
    add_config_arguments(parser)
    return run_command(parser, check, argv)


def check(args: argparse.Namespace) -> None:
    """Look for problems without writing anything or reading any data but annotations."""
    cfg = load_config(args)
    from mmrev.diagnosis.plan import Plan
    splits = tuple(split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader') is not None)
    found = 0
    for found, problem in enumerate(Plan(cfg, splits or ('train', )).problems(), 1):
        print(f'{found}. {problem.what}\n   {problem.fix}', flush=True)
    if found:
        raise ProblemError(f'{found} problem{"s" if found > 1 else ""} in {args.config}', 'Each is named above')
    print(f'No problem found in {args.config}')
