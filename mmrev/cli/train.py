"""``mmrev train``: train a model from a config, with or without GPUs, in one or several processes."""
import argparse
import os.path as osp
from typing import List, Optional

from mmrev.cli.common import Parser, add_run_arguments, join_launcher, load_config, run_command
from mmrev.problems import ProblemError


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev train') -> int:
    """Train a model; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Train a model from a config.')
    add_run_arguments(parser)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='resume from this checkpoint, or from the latest in the work dir')
    parser.add_argument('--overwrite', action='store_true', help='delete checkpoints of another run in the work dir')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision: float16 on a GPU, '
                        'bfloat16 without one')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the batch size over auto_scale_lr.base_batch_size')
    parser.add_argument('--memory-budget', metavar='SIZE', help='such as 10GB; recompute parts of the model to fit')
    return run_command(parser, lambda args: train(args, prog), argv)


def train(args: argparse.Namespace, prog: str) -> None:
    """Run the checks, then train. Nothing is written before the checks have passed."""
    join_launcher(args)
    cfg = load_config(args)
    from mmrev.apis.modes import use_memory_budget, use_mixed_precision
    from mmrev.apis.run import build_runner, running
    from mmrev.apis.work_dir import find_resumable, reserved
    from mmrev.diagnosis.plan import Plan
    from mmrev.hooks import ProgressHook, RunReportHook
    if args.amp:
        use_mixed_precision(cfg)
    if args.auto_scale_lr:
        if not isinstance(cfg.get('auto_scale_lr'), dict) or 'base_batch_size' not in cfg.auto_scale_lr:
            raise ProblemError('--auto-scale-lr: the config does not say for which batch size its learning rate is '
                               'meant', 'Add auto_scale_lr=dict(enable=True, base_batch_size=16) to the config')
        cfg.auto_scale_lr.enable = True
    if args.memory_budget:
        use_memory_budget(cfg, args.memory_budget)
    if args.resume:
        cfg.update(resume=True, load_from=None if args.resume == 'auto' else args.resume)
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from, skipped = find_resumable(cfg.work_dir)
        if skipped:
            print(f'{prog}: resuming from {cfg.load_from}; {", ".join(skipped)} cannot be read')
    Plan(cfg, ('train', 'val')).require_none()
    try:
        with reserved(cfg.work_dir, bool(cfg.get('resume')), args.overwrite) as others:
            runner = build_runner(cfg, [ProgressHook(), RunReportHook()], others)
            with running(runner, 'train', 'val'):
                runner.train()
    except KeyboardInterrupt as stop:
        if not osp.exists(osp.join(cfg.work_dir, 'last_checkpoint')):
            raise type(stop)('There is no checkpoint yet to resume from.') from stop
        command = f'{prog} {args.config}' if args.launcher == 'none' else 'the same command with'
        raise type(stop)(f'{stop} Resume: {command} --work-dir {cfg.work_dir} --resume'.lstrip()) from stop
