"""``mmrev predict``: run a trained model on images."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command
from mmrev.problems import ProblemError


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev predict') -> int:
    """Predict on the given images; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Predict on images; print and draw the predictions.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint that was trained with the config')
    parser.add_argument('inputs', nargs='+', metavar='IMAGE', help='images, and folders of images at any depth')
    parser.add_argument('--out-dir', metavar='FOLDER', help='write the drawn images and predictions.json there')
    parser.add_argument('--score', type=float, default=0.3, help='boxes below it are neither drawn nor counted')
    parser.add_argument('--task', choices=['detection', 'classification', 'semseg'], help='task that is expected')
    group = parser.add_argument_group('semantic segmentation')
    group.add_argument('--scales', type=float, nargs='+', metavar='SCALE',
                       help="predict at these sizes, relative to the config's, and fuse the probabilities")
    group.add_argument('--flip', action='store_true', default=None, help='also predict each scale mirrored')
    group.add_argument('--fusion', choices=['mean', 'voting', 'max'], help='how probabilities are fused; default mean')
    group.add_argument('--out-format', choices=['palette', 'raw', 'prob'], help='write maps instead of drawn images: '
                       'labels in the colors of the classes, labels in gray, or labels in gray and probabilities')
    return run_command(parser, predict, argv)


def predict(args: argparse.Namespace) -> None:
    """Predict, and print a line for each image."""
    if args.out_format and not args.out_dir:
        raise ProblemError(f'--out-format {args.out_format} needs a folder', 'Name it: --out-dir FOLDER')
    cfg = load_config(args)
    from mmrev.apis.predict import predict
    given = {name: value for name, value in vars(args).items()
             if name in ('scales', 'flip', 'fusion', 'out_format') and value is not None}
    for prediction in predict(cfg, args.checkpoint, args.inputs, args.out_dir, args.score, args.task, **given):
        print(f'{prediction.file}: {prediction.summary}', flush=True)
    if args.out_dir:
        print(f'Done.  images and predictions.json: {args.out_dir}')
