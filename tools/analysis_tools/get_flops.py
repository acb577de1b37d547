"""Parameters and multiply-accumulates (MACs) of a config's model, part by part.

Nothing is computed and no data is needed, so the largest model takes seconds. A two-stage detector's heads are counted
for as many proposals as `test_cfg` allows, of which mmdet passes the first 100 to a mask head (all in a cascade).

Example:
    python tools/analysis_tools/get_flops.py configs/revbifpn/revbifpn-s0_8xb128_in1k.py
    python tools/analysis_tools/get_flops.py configs/revbifpn/faster_rcnn_revbifpn_s3.py --shape 800 1344 --depth 3
"""
import argparse
import copy
import sys
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from mmrev.analysis import Operations, count_operations
from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command
from mmrev.problems import ProblemError, phase

# Transforms that decide the size of the image, and the argument that states it.
_SIZES = dict(Resize='scale', FixShapeResize='scale', ResizeEdge='scale', RandomResizedCrop='scale',
              CenterCrop='crop_size', RandomCrop='crop_size', EfficientNetCenterCrop='crop_size', Pad='size')


def main(argv: Optional[List[str]] = None, prog: str = 'get_flops.py') -> int:
    """Print the table; return the exit status."""
    return run_command(build_parser(prog), report, argv)


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help="of the image; default: what the config's test pipeline makes")
    parser.add_argument('--depth', type=int, default=2, help='levels of modules in the table (default 2)')
    parser.add_argument('--device', default='meta', help='cpu for a model that needs values (default meta: none)')
    return parser


def report(args: argparse.Namespace) -> None:
    """Count and print."""
    MMLogger.get_current_instance().setLevel('WARNING')
    cfg = load_config(args)
    if cfg.get('model') is None:
        raise ProblemError(f'{cfg.filename} has no `model`', 'Give the config of a classifier or detector')
    height, width = args.shape or default_shape(cfg)
    if min(height, width, args.depth) < 1:
        raise ProblemError('--shape and --depth must be above 0', 'Give e.g. --shape 800 1344 --depth 2')
    counts = count_config(cfg, (height, width), args.device)
    print(f'{args.config}: {cfg.model.type}, one image of {height}x{width}')
    print(table(counts, args.depth))
    print('MACs: multiply-accumulates of convolutions, linear layers and attention. As published: with biases of\n'
          'convolutions, norms (2 per value) and interpolation (11 per value, bilinear), as thop counts. Operators\n'
          'that mmcv compiles (RoIAlign, deformable convolution) are not counted.')


def count_config(cfg: Config, shape: Tuple[int, int], device: str = 'meta') -> Dict[str, Operations]:
    """Parameters and operations of every module of a config's model, see :func:`mmrev.analysis.count_operations`.

    Args:
        cfg: Of a classifier or detector.
        shape: Height and width of the image, in pixels.
        device: Where to run; on the meta device nothing is computed.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    with phase('the model cannot be built', f'Fix it in {cfg.filename}; --traceback shows where'):
        model = revert_sync_batchnorm(_build(cfg.model, device))
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    image = torch.empty(1, 3 if mean is None else len(mean), *shape, device=device)
    if device != 'meta':
        image.zero_()
    sample = BaseDataElement(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape,
                                           scale_factor=(1., 1.)))
    _give_all_proposals(model)
    with phase(f'the model does not run on `{device}`', 'Try another --shape, or --device cpu; --traceback shows '
               'where it ended'):
        return count_operations(model, image, [sample], mode='tensor')


def _build(model: dict, device: str) -> nn.Module:
    try:
        with torch.device(device):
            return MODELS.build(copy.deepcopy(model))
    except RuntimeError:
        if device != 'meta':
            raise
        return MODELS.build(copy.deepcopy(model)).to(device)  # its constructor reads values of a tensor


def _give_all_proposals(model: nn.Module) -> None:
    """Give a two-stage detector's heads as many proposals as they may get; which ones does not matter."""
    if not hasattr(model, 'rpn_head') or not hasattr(model, 'roi_head'):
        return
    rpn_head = model.rpn_head

    def predict(features, batch_data_samples, rescale=False):
        rpn_head(features)
        boxes = features[0].new_zeros(rpn_head.test_cfg.max_per_img, 4)
        return [InstanceData(bboxes=boxes) for _ in batch_data_samples]

    rpn_head.predict = predict
    for module in model.roi_head.modules():
        if hasattr(module, 'roi_layers'):
            module.forward = _empty_regions(module)


def _empty_regions(extractor: nn.Module):
    """Regions of the size that an extractor returns, without values."""
    size = extractor.roi_layers[0].output_size

    def forward(features, rois, roi_scale_factor=None):
        return features[0].new_zeros(len(rois), extractor.out_channels, *size)

    return forward


def default_shape(cfg: Config) -> Tuple[int, int]:
    """Height and width of the image that the test pipeline makes: landscape, padded as the model pads it."""
    dataset = (cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    shape = None
    for transform in dataset.get('pipeline') or ():
        name = str(transform['type']).rpartition('.')[2]
        size = transform.get(_SIZES.get(name))
        if size:
            shape = (size, size) if isinstance(size, int) else (min(size), max(size))
    if shape is None:
        raise ProblemError(f'the test pipeline of {cfg.filename} states no size of the image', 'Give it: --shape H W')
    divisor = ((cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor')) or 1
    return tuple(-(-side // divisor) * divisor for side in shape)


def table(counts: Dict[str, Operations], depth: int) -> str:
    """Format the counts, module by module down to `depth`; modules without parameters and operations are omitted."""
    rows: List[Tuple[Any, ...]] = [('', 'parameters', 'MACs', 'as published')]
    rows += [(path, *found) for path, found in counts.items() if path and path.count('.') < depth and any(found)]
    rows.append(('total', *counts['']))
    return '\n'.join(_lines(rows))


def _lines(rows: List[Tuple[Any, ...]]) -> Iterable[str]:
    width = max(len(str(row[0])) + 2 * str(row[0]).count('.') for row in rows) + 2
    for path, *numbers in rows:
        cells = [f'{x:,}' if isinstance(x, int) else x for x in numbers]
        yield ('  ' * path.count('.') + path).ljust(width) + ''.join(cell.rjust(20) for cell in cells)


if __name__ == '__main__':
    sys.exit(main())
