"""What is wrong with the sections of a config: two lines, status 2, nothing written."""
import importlib
import logging
import random
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmrev.apis.distributed import alone
from mmrev.diagnosis import CONFIG, MACHINE, problems
from mmrev.diagnosis.config import misused, numbers
from mmrev.diagnosis.plan import Plan
from mmrev.problems import ProblemError
from support.commands import option

MISTAKES = {
    'a config without a model': (['train', 'no_model.py'], 'no_model.py has no `model`', 'inherit'),
    'a scope that is not there': (option('default_scope=mmdett'), 'no scope `mmdett`', '`mmdet`'),
    'a number for a section': (option('model=3'), '`model` is 3, not a dict', 'model.KEY=VALUE'),
    'a section without its companions': (option('val_dataloader=None'), 'no `val_dataloader`', 'three'),
    'an unknown transform': (option('train_dataloader.dataset.pipeline.2.type=Resise'), '`Resise`', '`Resize`'),
    'an unknown optimizer': (option('optim_wrapper.optimizer.type=SGGD'), '`SGGD`', '`SGD`'),
    'a misspelt hook': (option('default_hooks.timr.interval=3'), '`default_hooks.timr` has no `type`', 'name'),
    'an argument that a hook would pass on': (option('default_hooks.checkpoint.intervall=3'), '`intervall`',
                                              '`interval`'),
    'a metric to save the best by that is none': (option('default_hooks.checkpoint.save_best=x'), 'rule for key x',
                                                  'default_hooks.checkpoint'),
    'a text for the learning rate': (option('optim_wrapper.optimizer.lr=abc'), '`optim_wrapper.optimizer.lr` is the '
                                     'text `abc`; SGD takes float', 'optim_wrapper.optimizer.lr=VALUE'),
    'a text for the weight decay': (option('optim_wrapper.optimizer.weight_decay=x'), 'weight_decay` is the text',
                                    'VALUE'),
    'a negative learning rate': (option('optim_wrapper.optimizer.lr=-1'), '`optim_wrapper.optimizer.lr` is -1, which '
                                 'must be a finite number from 0', 'optim_wrapper.optimizer.lr=NUMBER'),
    'a misspelt clipping': (option('optim_wrapper.clip_grad.max_nrom=1'), '`optim_wrapper.clip_grad.max_nrom`',
                             '`max_norm`'),
    'a misspelt rule for parameters': (option('optim_wrapper.paramwise_cfg.norm_decay_mul=0'),
                                       'norm_decay_mul` is read by nothing', '`norm_decay_mult`'),
    'a misspelt key of the training of a part': (
        option('model.train_cfg.rpn.allowed_boarder=0'), '`model.train_cfg.rpn.allowed_boarder` is read by nothing',
        '`allowed_border`'),
    'a key of the test by the name of another library': (
        option('model.test_cfg.rcnn.score_threshold=0.1'), 'rcnn.score_threshold` is read by nothing', '`score_thr`'),
    'a base batch size of none': ([*option('auto_scale_lr.base_batch_size=0'), '--auto-scale-lr'],
                                  '`auto_scale_lr.base_batch_size` is 0', 'NUMBER'),
    'a schedule that is no list of dicts': (option("param_scheduler=[dict(type='StepLR')]"),
                                            '`param_scheduler.0` is ', 'good.py'),
    'a schedule with a text that it computes with': (
        ['train', 'schedule_text.py'],
        '`param_scheduler.0.eta_min` is the text `x`', 'param_scheduler.0.eta_min=VALUE'),
    'a text for milestones': (['train', 'schedule_milestones.py'],
                              'milestones` is the text `x`', 'VALUE'),
    'no weight of a loss': (option('model.rpn_head.loss_bbox.loss_weight=None'),
                            'loss_weight` is None; L1Loss takes float', 'VALUE'),
    'a misspelt factor of a part': (
        option('optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mul=0.1'), 'backbone.lr_mul` is read by nothing',
        '`lr_mult`'),
    'a text for a flag of a schedule': (['train', 'schedule_flag.py'], '`param_scheduler.0.by_epoch` is the text `no`',
                                        'VALUE'),
    'a schedule that divides by zero': (['train', 'schedule_zero.py'], '`param_scheduler.0.step_size` is 0',
                                        'param_scheduler.0.step_size=NUMBER'),
    'a schedule that fails in its course': (['train', 'schedule_course.py'], '`param_scheduler.0` fails when it is '
                                            'stepped: ', 'param_scheduler.0.KEY'),
    'a text for the epochs': (option('train_cfg.max_epochs=two'), '`train_cfg.max_epochs` is the text `two`', 'VALUE'),
    'no epoch': (option('train_cfg.max_epochs=0'), '`train_cfg.max_epochs` is 0', 'train_cfg.max_epochs=NUMBER'),
    'no interval': (option('train_cfg.val_interval=0'), '`train_cfg.val_interval` is 0', 'NUMBER'),
    'a text for the seed': (option('randomness.seed=abc'), '`randomness.seed` is the text `abc`',
                            'randomness.seed=VALUE'),
    'an unknown log level': (option('log_level=LOUD'), "'LOUD'", 'log_level'),
    'an unknown hook': (option('default_hooks.timer.type=IterTimmerHook'), '`IterTimmerHook`', '`IterTimerHook`'),
    'an unknown argument of the loop': (option('train_cfg.max_epoch=3'), '`max_epoch`', '`max_epochs`'),
    'a text for a number without annotation': (option('log_processor.window_size=abc'), 'LogProcessor takes int',
                                               'VALUE'),
    'a misspelt truth value': (option('train_dataloader.sampler.shuffle=Flase'), 'DefaultSampler takes bool', 'VALUE'),
    'a variable that no config reads': (option('pretrained=other.pth'), '`pretrained` at the top of good.py is read by '
                                        'nothing', 'model.backbone.init_cfg.checkpoint=other.pth'),
    'a config with a variable that nothing reads': (['train', 'old.py'], '`pretrained` at the top of old.py',
                                                    'model.backbone.init_cfg.checkpoint=other.pth'),
    'a key at the top that nothing reads': (['train', 'misspelt.py'], '`optim_wraper` is read by nothing',
                                            '`optim_wrapper`'),
    'a rule for parameters that are not there': (
        option('optim_wrapper.paramwise_cfg.custom_keys.backbonee.lr_mult=0.1'),
        'custom_keys.backbonee` is read by nothing', '`backbone`'),
    'classes by the name of an older version': (
        ['train', 'older.py'], 'metainfo.CLASSES` is read by nothing', '`classes`'),
    'a text for a flag': (option('model.backbone.norm_eval=x'), '`model.backbone.norm_eval` is the text `x`', 'VALUE'),
    'deviations of zero': (option('model.rpn_head.bbox_coder.target_stds=[0.,1.,1.,1.]'),
                           'target_stds.0` is 0.0', 'NUMBER'),
    'a size that would end the process by SIGFPE': (
        option('model.roi_head.bbox_roi_extractor.roi_layer.output_size=0'), 'output_size` is 0', 'NUMBER'),
    'a part of an iteration': (option('optim_wrapper.accumulative_counts=1.5'), 'accumulative_counts` is 1.5; '
                               'OptimWrapper takes int there', 'accumulative_counts=VALUE'),
    'more than all samples': (option('model.train_cfg.rcnn.sampler.pos_fraction=3'), 'pos_fraction` is 3, which must '
                              'be a number from 0 to 1', 'NUMBER'),
    'a misspelt filter': (option('train_dataloader.dataset.filter_cfg.filter_empty_gts=True'),
                          'filter_cfg.filter_empty_gts` is read by nothing', '`filter_empty_gt`'),
    'no batch in advance': (option('train_dataloader.prefetch_factor=0'), 'prefetch_factor` is 0', 'NUMBER'),
    'reversed thresholds': (option('model.train_cfg.rpn.assigner.neg_iou_thr=0.8'),
                            'rpn.assigner.neg_iou_thr` is 0.8, above pos_iou_thr=0.7', 'neg_iou_thr=0.7'),
    'a negative base batch size': ([*option('auto_scale_lr.base_batch_size=-4'), '--auto-scale-lr'],
                                   '`auto_scale_lr.base_batch_size` is -4', 'NUMBER'),
    'starting from a number': (option('load_from=3'), '`load_from` is 3', 'good.py'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_it_is_named_with_a_way_out_and_nothing_is_written(mistake, refused):
    refused(*MISTAKES[mistake])


def test_a_wrapper_that_needs_a_gpu_is_refused_without_one(refused, monkeypatch):
    monkeypatch.setattr('mmrev.diagnosis.config.get_device', lambda: 'cpu')
    refused(option('optim_wrapper.type=AmpOptimWrapper'), 'AmpOptimWrapper, which needs a GPU', '--amp')


def test_a_range_of_thresholds_is_no_mistake():
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=(0.3, 0.7))
    cfg = Config(dict(model=dict(train_cfg=dict(rpn=dict(assigner=assigner)))))
    assert list(numbers(Plan(cfg, ('train', )))) == []


def test_checking_leaves_the_config_as_it_is(folder, monkeypatch):
    monkeypatch.chdir(folder)
    cfg = Config.fromfile('good.py')
    cfg.work_dir = 'work_dirs/good'
    before = cfg.pretty_text
    assert list(Plan(cfg, ('train', 'val', 'test')).problems()) == []
    assert cfg.pretty_text == before


def test_checking_leaves_random_numbers_and_log_as_they_are(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    plan = Plan(Config.fromfile('good.py'), ('train', 'val'))
    plan.cfg.work_dir = 'work_dirs/good'
    plan.require_none()
    assert draw() == expected and plan.model is None  # no second model lives on beside the one that is trained
    assert capfd.readouterr().out == ''
    assert logging.root.manager.disable < logging.ERROR


@pytest.mark.parametrize('annotation, text, meant', [
    (int, 'abc', False), (Optional[float], 'abc', False), (Union[int, Tuple[int, int]], 'abc', False),
    (Union[str, int], 'abc', True), (List[str], 'abc', True), (Sequence[int], 'abc', True), (Any, 'abc', True),
    (bool, 'qv_bias', True), (bool, 'Flase', False)])
def test_a_text_is_refused_only_where_it_cannot_be_meant(annotation, text, meant):
    def built(value):
        raise AssertionError('nothing is built')

    built.__annotations__['value'] = annotation
    found = list(misused(Plan(Config(), ()), built, dict(value=text), 'section'))
    assert [problem.what.startswith('`section.value` is the text') for problem in found] == [True] * (not meant)


def test_a_text_for_a_number_is_reported_once():
    """`entries` knows that AdamW takes a float, `numbers` that a learning rate is one."""
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr='abc'))))
    found = [problem.what for problem in problems(('config.entries', 'config.numbers'), Plan(cfg, ('train', )))]
    assert len(found) == 1 and found[0].startswith('`optim_wrapper.optimizer.lr` is the text `abc`; AdamW takes')


def test_a_process_group_of_one_stands_for_processes_that_have_not_joined():
    with alone('pytorch'):
        assert torch.distributed.get_world_size() == 1
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('name', [*MACHINE, *CONFIG])
def test_every_check_of_the_lists_is_there_and_says_what_holds(name):
    module, _, function = name.partition('.')
    assert getattr(importlib.import_module(f'mmrev.diagnosis.{module}'), function).__doc__


def test_a_check_that_fails_for_what_another_one_found_is_not_counted(monkeypatch):
    def finds(subject):
        raise ProblemError('first')
        yield

    def fails(subject):
        raise KeyError('second')
        yield

    monkeypatch.setattr('mmrev.diagnosis.config.sections', finds)
    monkeypatch.setattr('mmrev.diagnosis.config.scope', fails)
    assert [problem.what for problem in problems(['config.sections', 'config.scope'], None)] == ['first']
    assert [problem.what for problem in problems(['config.scope'], None)] == ['checking config.scope: KeyError: second']
