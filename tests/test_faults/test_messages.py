"""Which entry of the config a message names, and the way out, where the hosts' own messages do not say it."""
import json
import os
import pickle

import cv2
import numpy as np
import pytest
import torch

from mmrev.apis.entries import entry_passed, key_named
from support.commands import forked, printed, said

pytest.importorskip('mmseg')

from . import campaign, data_faults  # noqa: E402
from .campaign import CLS, DET, delete, set_  # noqa: E402
from .data_faults import MASK, SEG  # noqa: E402

HOOKS, STRIDES = 'custom_hooks', 'model.rpn_head.anchor_generator.strides'
PIPELINE = 'train_dataloader.dataset.pipeline'
TRAIN = ('train', 'config.py')


def weighted(*numbers):
    return dict(type='CrossEntropyLoss', class_weight=[*numbers])


def repeated(cfg):
    cfg['train_dataloader']['dataset'] = dict(type='RepeatDataset', times=0, dataset=cfg['train_dataloader']['dataset'])


# What is changed, and parts of both lines of the message.
SAID = {
    'norm of order 0': (CLS, set_('optim_wrapper.clip_grad.norm_type', 0), '`optim_wrapper.clip_grad.norm_type` is 0',
                        'norm_type=NUMBER'),
    'no proposals': (DET, set_('model.train_cfg.rpn_proposal.max_per_img', 0), 'rpn_proposal.max_per_img` is 0',
                     'max_per_img=NUMBER'),
    'a momentum that diverges': (DET, set_('optim_wrapper.optimizer.momentum', 2), 'a number from 0 below 1',
                                 'momentum=NUMBER'),
    'a threshold in percent': (MASK, set_('model.test_cfg.rcnn.mask_thr_binary', 50), 'mask_thr_binary` is 50',
                               'mask_thr_binary=NUMBER'),
    'a negative weight of a class': (SEG, set_('model.decode_head.loss_decode', weighted(1., -1., 1.)),
                                     'class_weight.1` is -1', 'class_weight.1=NUMBER'),
    'no interval of checkpoints': (CLS, set_('default_hooks.checkpoint.interval', 0), 'interval` is 0, which must be a '
                                   'number from 1, or -1', 'interval=NUMBER'),
    'no checkpoint to keep': (CLS, set_('default_hooks.checkpoint.max_keep_ckpts', 0), 'max_keep_ckpts` is 0',
                              'max_keep_ckpts=NUMBER'),
    'far more workers than processors': (CLS, set_('train_dataloader.num_workers', 100000), 'start 100000 workers',
                                         'num_workers'),
    'digits of numbers in the log': (CLS, set_('log_processor', dict(type='LogProcessor', num_digits=-1)),
                                     '`log_processor.num_digits` is -1', 'num_digits=NUMBER'),
    'no repetition': (CLS, repeated, '`train_dataloader.dataset.times` is 0', 'times=NUMBER'),
    'a work dir as a list': (CLS, set_('work_dir', []), '`work_dir` is []', '--work-dir'),
    'a number as a generator': (CLS, set_('train_dataloader.generator', 3), '`train_dataloader.generator` is 3',
                                'Leave it out'),
    'no sampler': (CLS, delete('train_dataloader.sampler'), 'train_dataloader has no `sampler`', 'shuffle=True'),
    'a part of an iteration': (CLS, set_('optim_wrapper.accumulative_counts', 1.5), 'accumulative_counts` is 1.5',
                               'accumulative_counts=VALUE'),
    'a number as a function': (CLS, set_('train_dataloader.worker_init_fn', 3), 'worker_init_fn` is 3, not a dict',
                               'worker_init_fn'),
    'no level of a neck': (DET, set_('model.neck.num_outs', 0), '`model.neck.num_outs` is 0', 'num_outs=NUMBER'),
    'fewer levels than the anchors': (DET, set_('model.neck.num_outs', 4), f'`{STRIDES}` are of 5 levels, and '
                                      'model.neck gives 4', f'{STRIDES}=VALUE'),
    'more anchors than levels': (DET, set_(STRIDES, [4, 8, 16, 32, 64, 128]), 'are of 6 levels', f'{STRIDES}=VALUE'),
    'anchors of other strides': (DET, set_(STRIDES, [8, 16, 32, 64, 128]), 'begin with 8, and the first level that '
                                 'model.neck gives has stride 4', f'{STRIDES}=VALUE'),
    'boxes pooled from other levels': (DET, set_('model.roi_head.bbox_roi_extractor.featmap_strides', [8, 16, 32, 64]),
                                       'featmap_strides` is [8, 16, 32, 64], and the levels that model.neck gives '
                                       'have the strides [4, 8, 16, 32, 64]', 'featmap_strides=VALUE'),
    'a loss of IoU on encoded boxes': (DET, set_('model.roi_head.bbox_head.loss_bbox', dict(type='GIoULoss')),
                                       'GIoULoss, which compares boxes', 'reg_decoded_bbox=VALUE'),
    'a loss of IoU on encoded anchors': (DET, set_('model.rpn_head.loss_bbox', dict(type='IoULoss')),
                                         'IoULoss, which compares boxes', 'reg_decoded_bbox=VALUE'),
    'masks of other classes': (MASK, set_('model.roi_head.mask_head.num_classes', 80), 'mask_head.num_classes` is 80, '
                               'and that of bbox_head 2', 'num_classes=VALUE'),
    'statistics of images from 0 to 1': (DET, set_('model.data_preprocessor', dict(
        type='DetDataPreprocessor', mean=[.485, .456, .406], std=[.229, .224, .225])), 'std=[0.229, 0.224, 0.225] of '
        'model.data_preprocessor', 'from 0 to 255'),
    'a loss of training to stop by': (CLS, set_(HOOKS, [dict(type='EarlyStoppingHook', monitor='loss')]),
                                      'EarlyStoppingHook monitors `loss`', 'accuracy/top1'),
    'three deviations': (DET, set_('model.rpn_head.bbox_coder.target_stds', [1., 1., 1.]),
                         '`model.rpn_head.bbox_coder.target_stds` has 3 numbers, and a box 4', 'target_stds=VALUE'),
    'weights of three of two classes': (CLS, set_('model.head.loss', weighted(1., 1., 1.)),
                                        '`model.head.loss.class_weight` has 3 numbers', 'class_weight=VALUE'),
    'weights of two of three classes': (SEG, set_('model.decode_head.loss_decode', weighted(1., 1.)),
                                        'loss_decode.class_weight` has 2 numbers, and its head 3', 'class_weight='),
    'no weight of the background': (DET, set_('model.roi_head.bbox_head.loss_cls.class_weight', [1., 1.]),
                                    'for all 3 classes', '`model.roi_head.bbox_head.loss_cls`'),
    'a level that is not there': (SEG, set_('model.decode_head.in_index', 9), '`model.decode_head.in_index` is 9, and '
                                  'model.backbone gives 4 levels', 'in_index=VALUE'),
    'a window without a size': (SEG, set_('model.test_cfg', dict(mode='slide')), '`model.test_cfg` has mode=\'slide\' '
                                'and no `crop_size`', 'stride='),
    'a window as a number': (SEG, set_('model.test_cfg', dict(mode='slide', crop_size=32, stride=16)),
                             '`crop_size=32`, no pair', 'crop_size='),
    'a window with gaps': (SEG, set_('model.test_cfg', dict(mode='slide', crop_size=(16, 16), stride=(32, 32))),
                           'would leave gaps', 'stride below the crop_size'),
    'a probability in percent': (SEG, set_('model.decode_head.sampler', dict(type='OHEMPixelSampler', thresh=70)),
                                 '`model.decode_head.sampler.thresh` is 70', 'thresh=NUMBER'),
    'no step of a window': (SEG, set_('model.test_cfg', dict(mode='slide', crop_size=(32, 32), stride=(0, 0))),
                            '`model.test_cfg.stride.0` is 0', 'stride.0=NUMBER'),
    'masks that would end the process by SIGFPE': (MASK, set_('model.train_cfg.rcnn.mask_size', 0),
                                                   'rcnn.mask_size` is 0', 'mask_size=NUMBER'),
    'a scale of RoIs that is none': (DET, set_('model.roi_head.bbox_roi_extractor.finest_scale', 0),
                                     'finest_scale` is 0', 'finest_scale=NUMBER'),
    'a test without nms': (DET, delete('model.test_cfg.rcnn.nms'), "attribute 'nms'", 'test_cfg of the model, lacks'),
    'an accuracy of a head': (CLS, campaign.both(set_('model.head.topk', (5, )), set_('model.head.cal_acc', True)),
                              'Top-5 accuracy', 'Fix `model.head`'),
    'no losses to log': (CLS, set_('default_hooks.runtime_info', None), 'no RuntimeInfoHook', 'runtime_info'),
    'a mean of four channels': (CLS, set_('model.data_preprocessor.mean', [1.] * 4), 'must match the size',
                                'Fix `model.data_preprocessor`'),
    'a text for a flag of what has no type': (CLS, set_('model.data_preprocessor.to_rgb', 'x'), '`model.data_'
                                              'preprocessor.to_rgb` is the text `x`', 'to_rgb=VALUE'),
    'a size and a divisor': (SEG, set_('model.data_preprocessor.size', (32, 32)), 'only one of size and size_divisor',
                             'model.data_preprocessor.size_divisor=VALUE'),
    'boxes that are not packed': (DET, delete(f'{PIPELINE}.3'), 'no `inputs`', 'with PackDetInputs'),
    'masks that are not packed': (SEG, delete(f'{PIPELINE}.3'), 'no `inputs`', 'with PackSegInputs'),
    'no boxes': (DET, set_(f'{PIPELINE}.1.with_bbox', False), '`gt_instances.bboxes`, which FasterRCNN needs',
                 'with_bbox=True'),
    'no masks': (MASK, set_(f'{PIPELINE}.1.with_mask', False), '`gt_instances.masks`', 'with_mask=True'),
    'no map of labels': (SEG, delete(f'{PIPELINE}.1'), '`gt_sem_seg.data`', 'LoadAnnotations'),
    'a threshold where a list is read': (DET, set_('val_evaluator.iou_thrs', 0.5), '`iou_thrs` is 0.5', 'a list'),
    'no numbers of proposals': (DET, set_('val_evaluator.proposal_nums', []), '`proposal_nums` is []', 'a list'),
    'a metric of segmentors': (CLS, set_('val_evaluator', dict(type='mmseg.IoUMetric')), 'pred_sem_seg',
                               'one of mmpretrain'),
    'more classes than there are': (CLS, set_('val_evaluator.topk', 20), '`topk` holds 20, and model.head has 2',
                                    'from 1 to 2'),
    'a misspelt metric': (SEG, set_('val_evaluator.iou_metrics', ['mIou']), 'mIou', 'Did you mean `mIoU`? Fix '
                          '`val_evaluator`'),
    'no interval of drawing': (DET, set_('default_hooks.visualization', dict(type='DetVisualizationHook', draw=True,
                                                                            interval=-1)),
                               '`interval` of DetVisualizationHook is -1', 'default_hooks.visualization'),
    'a name in lower case': (CLS, set_('optim_wrapper.optimizer.type', 'adamw'), 'no optimizer `adamw`',
                             'Did you mean `AdamW`? '),
    'an unknown priority': (CLS, set_(HOOKS, [dict(type='EMAHook', priority='HIGHER')]),
                            f"`{HOOKS}.0.priority` is 'HIGHER'", '`HIGH` or `HIGHEST`'),
    'a priority above all': (CLS, set_(HOOKS, [dict(type='EMAHook', priority=999)]), 'priority` is 999', '0 to 100'),
    'an interval without an epoch': (CLS, set_('train_cfg.dynamic_intervals', 3), '`train_cfg`: ', 'train_cfg.KEY'),
    'a module that is not there': (CLS, set_('custom_imports.imports', ['no_such_module']), "custom_imports of "
                                   "config.py: No module named 'no_such_module'", 'PYTHONPATH'),
    'a backend that is not installed': (CLS, set_('visualizer', dict(type='UniversalVisualizer', vis_backends=[dict(
        type='ClearMLVisBackend')])), '`visualizer.vis_backends.0`: Please run "pip install clearml"', 'config.py'),
    'a server that is not there': (CLS, set_('load_from', 'http://127.0.0.1:9/x.pth'), 'loading '
                                   '`http://127.0.0.1:9/x.pth`', 'give its path'),
}
EMPTY = [('train', 'config.py', '--resume', ''), ('predict', 'config.py', '', 'data'), ('test', 'config.py', ''),
         ('predict', 'config.py', 'x.pth', ''), ('test', 'config.py', 'x.pth', '--out', '')]
RESUME, PREDICT = ('train', 'config.py', '--resume', 'x.pth'), ('predict', 'config.py', 'x.pth', 'data/0/0.png')
CHECKPOINTS = {  # a change of its content, a command, parts of both lines
    'weights alone': (lambda held: dict(state_dict=held['state_dict']), RESUME, 'cannot be resumed', 'load_from=x.pth'),
    'many iterations': (lambda held: held['meta'].update(iter=10 ** 9), RESUME, '`meta.iter`', 'load_from=x.pth'),
    'no values': (lambda held: weights(held, lambda weight: weight.to('meta')), RESUME, 'meta device', 'Save dense'),
    'sparse': (lambda held: weights(held, torch.Tensor.to_sparse), RESUME, 'sparse_coo', 'Save dense'),
    'to predict': (lambda held: weights(held, torch.Tensor.to_sparse), PREDICT, 'holds no real numbers there',
                   'config'),
}


def weights(held, change):
    held['state_dict'] = {name: change(weight) for name, weight in held['state_dict'].items()}


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    return data_faults.prepare(tmp_path_factory.mktemp('good'))


def refused(configs, folder, base, change=lambda cfg: None, arguments=TRAIN, files=lambda folder: None):
    """Both lines of the message; nothing is written."""
    campaign.lay_out(campaign.Fault('', base, change, files), configs, folder)
    before = campaign.contents(folder)
    status, errors = forked(*arguments, cwd=folder)
    assert not campaign.verdict(status, errors, before, campaign.contents(folder), False), errors
    return said(errors)


# What is changed, and what the log says.
WARNED = {
    'the lowest accuracy as the best': (CLS, set_('default_hooks.checkpoint', dict(
        type='CheckpointHook', save_best='accuracy/top1', rule='less')), "CheckpointHook has rule='less' for "
        '`accuracy/top1`, of which a greater value is better'),
    'training as in a test': (DET, set_('train_dataloader.dataset.test_mode', True), 'test_mode=True: images without '
                              'objects are not filtered'),
    'classes that never occur': (SEG, set_('model.decode_head.num_classes', 19), 'num_classes=19, and train_dataloader '
                                 'has 3 classes'),
    'a validation after the end': (CLS, set_('train_cfg.val_begin', 9), 'nothing is validated: train_cfg.val_begin is '
                                   '9, and the training ends at epoch 1'),
    'no learning rate': (CLS, set_('optim_wrapper.optimizer.lr', 0.), 'the learning rate of every weight is 0'),
    'the same order in every epoch': (CLS, set_('train_dataloader.sampler.shuffle', False), 'has shuffle=False: every '
                                      'epoch has the same order'),
    'a warmup longer than the training': (CLS, set_('param_scheduler', [dict(
        type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500)]), 'LinearLR ends at iteration 500, and '),
    'a milestone after the end': (CLS, set_('param_scheduler', [dict(type='MultiStepLR', milestones=[8, 11])]),
                                  'MultiStepLR has a milestone at epoch 8, and the training ends at 1'),
    'a schedule after the end': (CLS, set_('param_scheduler', [dict(type='CosineAnnealingLR', T_max=5, begin=5,
                                                                    end=9)]), 'CosineAnnealingLR begins at epoch 5'),
    'no weight of any class': (SEG, set_('model.decode_head.loss_decode', weighted(0., 0., 0.)),
                               '`loss` is 0 in the first iteration (`data/'),
    'half a wave': (CLS, set_('param_scheduler', [dict(type='CosineAnnealingLR', T_max=100)]),
                    'CosineAnnealingLR takes 100 epochs (T_max), and the training ends 1 after its begin'),
    'more accumulated than there is': (CLS, set_('optim_wrapper.accumulative_counts', 1000), 'the weights change once'),
    'links to nothing': (CLS, lambda cfg: None, '1 files of train_dataloader are links to nothing, and left out, '
                         'such as `data/0/lost.png`'),
    'no checkpoint': (CLS, set_('default_hooks.checkpoint', dict(type='CheckpointHook', interval=5, save_last=False)),
                      'CheckpointHook writes no checkpoint'),
    'images that are validated as well': (DET, set_('val_dataloader.dataset.data_prefix.img', 'images/'),
                                          'images of train_dataloader are in val_dataloader as well'),
    'a class without an object': (DET, set_('train_dataloader.dataset.ann_file', 'one.json'),
                                  '1 of 2 classes have no object in train_dataloader: bright'),
    'images of one color': (DET, set_('train_dataloader.dataset.data_prefix.img', 'gray/'), 'images of '
                            'train_dataloader that were read are of a single color'),
    'an ignored class': (SEG, set_('model.decode_head.ignore_index', 0), 'ignore_index=0, which is the number of a '
                         'class'),
    'tiny images': (DET, set_(f'{PIPELINE}.2.scale', (4, 4)), 'has a side of 4 pixels'),
    'frozen weights that are random': (DET, set_('model.backbone.frozen_stages', 1), 'layers are frozen, from '
                                       '`backbone.'),
}


def spoil_detection(folder):
    """Further annotations, of one class, and gray images."""
    held = json.loads((folder / 'data/annotations.json').read_text())
    held['annotations'] = [entry for entry in held['annotations'] if entry['category_id'] == 1]
    (folder / 'data/one.json').write_text(json.dumps(held))
    (folder / 'data/gray').mkdir()
    for image in held['images']:
        size = image['height'], image['width'], 3
        cv2.imwrite(str(folder / 'data/gray' / image['file_name']), np.full(size, 128, np.uint8))


def spoil_classes(folder):
    """A link to nothing among the images of a class."""
    (folder / 'data/0/lost.png').symlink_to('nothing.png')


SPOILT = {DET: spoil_detection, CLS: spoil_classes, SEG: lambda folder: None}


@pytest.mark.slow
@pytest.mark.parametrize('name', WARNED)
def test_what_is_rarely_meant_is_named_in_the_log(name, configs, tmp_path):
    base, change, words = WARNED[name]
    campaign.lay_out(campaign.Fault('', base, change, SPOILT[base]), configs, tmp_path)
    assert words in printed(*TRAIN, cwd=tmp_path)


# Every third one in `make test`, a second each.
@pytest.mark.slow
@pytest.mark.parametrize('name', [name if index % 3 == 0 else pytest.param(name, marks=pytest.mark.faults)
                                  for index, name in enumerate(SAID)])
def test_it_names_the_entry_and_the_way_out(name, configs, tmp_path):
    base, change, what, fix = SAID[name]
    lines = refused(configs, tmp_path, base, change)
    assert what in lines[0] and fix in lines[1], lines


@pytest.mark.parametrize('arguments, words, way_out', [
    (('test', 'x.pth', 'config.py'), '`x.pth` is a checkpoint, where a config is expected', 'config before it'),
    (('train', 'config.py', '--resume', 'last_checkpoint'), 'cannot be read', '`runs/epoch_3.pth`: give that'),
    (('train', 'config.py', '--resume', 'x.safetensors'), 'cannot be read', 'safetensors.torch.load_file')])
def test_a_file_in_the_place_of_another_is_named(arguments, words, way_out, configs, tmp_path):
    def files(folder):
        for name in ('x.pth', 'x.safetensors', 'last_checkpoint'):
            (folder / name).write_text('runs/epoch_3.pth')

    said_first, said_second = refused(configs, tmp_path, CLS, arguments=arguments, files=files)
    assert words in said_first and way_out in said_second


@pytest.mark.parametrize('arguments', EMPTY, ids=' '.join)
def test_an_empty_argument_is_named(arguments, configs, tmp_path):
    assert 'is empty' in refused(configs, tmp_path, CLS, arguments=arguments)[0]


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used_says_why(name, configs, tmp_path):
    change, arguments, what, fix = CHECKPOINTS[name]

    def files(folder):
        held = torch.load(campaign.GOOD[CLS] / 'epoch_1.pth', weights_only=False)
        torch.save(change(held) or held, folder / 'x.pth')

    lines = refused(configs, tmp_path, CLS, arguments=arguments, files=files)
    assert what in lines[0] and fix in lines[1], lines


def test_a_folder_in_place_of_a_checkpoint_says_what_is_in_it(configs, tmp_path):
    def files(folder):
        (folder / 'x.pth').mkdir()
        (folder / 'x.pth/epoch_3.pth').write_text('')

    lines = refused(configs, tmp_path, CLS, set_('load_from', 'x.pth'), files=files)
    assert 'checkpoint `x.pth` is a folder' in lines[0] and 'epoch_3.pth' in lines[1]


class Command:
    def __reduce__(self):
        return os.mkdir, ('made', )


def test_pickled_proposals_run_nothing(configs, tmp_path):
    def files(folder):
        (folder / 'data/proposals.pkl').write_bytes(pickle.dumps(Command()))

    change = set_('train_dataloader.dataset.proposal_file', 'proposals.pkl')
    lines = refused(configs, tmp_path, DET, change, files=files)
    assert '(train_dataloader.dataset.proposal_file): it would run `posix.mkdir`' in lines[0]


SHARED = """
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier


@MODELS.register_module()
class Shared(ImageClassifier):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.again = self.head.fc
"""


def test_a_weight_of_two_parts_of_a_model_may_be_bypassed(configs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    change = campaign.both(set_('custom_imports.imports', ['mmrev', 'shared']), set_('model.type', 'Shared'))
    lines = refused(configs, tmp_path, CLS, change, files=lambda folder: (folder / 'shared.py').write_text(SHARED))
    assert 'more than one parameter group' in lines[0] and 'paramwise_cfg.bypass_duplicate=True' in lines[1]


class Loss:
    def compute(self):
        raise ValueError


class Head:
    def compute(self):
        Loss().compute()


def test_of_two_entries_of_a_class_the_one_below_another_that_the_exception_passed_is_found():
    inner, heads = dict(type=Loss), dict(a=dict(type=Loss), b=dict(type=Head, loss_cls=dict(type=Loss)))
    with pytest.raises(ValueError) as raised:
        Head().compute()
    assert entry_passed(raised.value, heads) == 'b.loss_cls'
    assert entry_passed(raised.value, dict(rpn=dict(cls=inner, box=inner)), 'model') == 'model.rpn'  # either of them
    assert entry_passed(raised.value, dict(rpn=inner, roi=inner)) == ''


def test_the_key_of_an_entry_that_a_message_names():
    entry = dict(type='X', mode=1, size_divisor=32, class_weight=[1.], loss_weight=1.)
    assert key_named('only one of size and size_divisor should be valid', entry) == 'size_divisor'
    assert key_named('a weight tensor of shape [1]', entry) == 'class_weight'
    assert key_named('the mode of `mode` is unknown', entry) == 'mode' and key_named('in this mode', entry) == 'KEY'
