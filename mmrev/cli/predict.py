"""``mmrev predict``: what a trained model finds in images."""
import argparse
from typing import List, Optional

from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command


def main(argv: Optional[List[str]] = None, prog: str = 'mmrev predict') -> int:
    """Predict as the command line says; return the exit status, see `mmrev.cli.main`."""
    parser = Parser(prog, description='Predict on images, print and draw what is found.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint that was trained with the config')
    parser.add_argument('inputs', nargs='+', metavar='IMAGE', help='images, and folders of images at any depth')
    parser.add_argument('--out-dir', metavar='FOLDER', help='write the drawn images and predictions.json there')
    parser.add_argument('--score', type=float, default=0.3, help='boxes below it are neither drawn nor counted')
    return run_command(parser, predict, argv)


def predict(args: argparse.Namespace) -> None:
    """Predict, a line an image."""
    cfg = load_config(args)
    from mmrev.apis.predict import predict
    for prediction in predict(cfg, args.checkpoint, args.inputs, args.out_dir, args.score):
        print(f'{prediction.file}: {prediction.summary}', flush=True)
    if args.out_dir:
        print(f'Done.  images and predictions.json: {args.out_dir}')
