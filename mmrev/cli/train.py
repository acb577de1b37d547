"""``mmrev train``: train a model from a config, with or without GPUs, in one or several processes."""
import argparse
import os.path as osp
from typing import List, Optional

from mmrev.cli.common import Parser, add_run_arguments, join_launcher, load_config, run_command


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
    from mmrev.apis.modes import scale_learning_rate, use_memory_budget, use_mixed_precision
    from mmrev.apis.run import build_runner, running
    from mmrev.apis.work_dir import choose_checkpoint, reserved
    from mmrev.diagnosis.plan import Plan
    from mmrev.hooks import RunReportHook
    if args.amp:
        use_mixed_precision(cfg)
    if args.auto_scale_lr:
        scale_learning_rate(cfg)
    if args.memory_budget is not None:
        use_memory_budget(cfg, args.memory_budget)
    if skipped := choose_checkpoint(cfg, args.resume):
        print(f'{prog}: resuming from {cfg.load_from}; {", ".join(skipped)} cannot be read')
    Plan(cfg, ('train', 'val'), skip_wrong=args.skip_wrong_annotations).require_none()
    try:
        with reserved(cfg.work_dir, bool(cfg.get('resume')), args.overwrite) as others:
            runner = build_runner(cfg, [RunReportHook()], others)
            with running(runner, 'train', 'val'):
                runner.train()
    except KeyboardInterrupt as stop:
        if not osp.exists(osp.join(cfg.work_dir, 'last_checkpoint')):
            raise type(stop)('There is no checkpoint yet to resume from.') from stop
        command = f'{prog} {args.config}' if args.launcher == 'none' else 'the same command with'
        raise type(stop)(f'{stop} Resume: {command} --work-dir {cfg.work_dir} --resume'.lstrip()) from stop
