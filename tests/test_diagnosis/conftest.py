"""A folder with a good config and broken files, and what a command says of a mistake."""
import argparse

import pytest
import torch

from mmrev.cli import main
from support import toy_detection
from support.commands import said


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """A data set, a good config, and files that are broken in several ways."""
    folder = tmp_path_factory.mktemp('mistakes')
    annotations = toy_detection.write_dataset(folder / 'data')
    toy_detection.write_dataset(folder / 'other', seed=1)
    text = toy_detection.config_text(folder / 'data')
    (folder / 'good.py').write_text(text)
    (folder / 'no_base.py').write_text("_base_ = './nowhere.py'\n")
    (folder / 'no_mmdet_base.py').write_text("_base_ = 'mmdet::_base_/nowhere.py'\n")
    (folder / 'no_python.py').write_text('model = dict(\n')
    (folder / 'no_model.py').write_text('train_cfg = dict()\n')
    (folder / 'data' / 'cut.json').write_text(annotations.read_text()[:-50])
    for name, classes in (('no_classes.py', ('cat', 'dog')), ('no_tuple.py', 'dark'),
                          ('other_order.py', ('bright', 'dark')), ('unknown_first.py', ('cat', 'dark'))):
        (folder / name).write_text("_base_ = './good.py'\ntrain_dataloader = dict(dataset=dict(metainfo=dict(classes="
                                   f'{classes!r})))\n')
    (folder / 'no_checkpoint.pth').write_text('some text')
    for name, entry in (('text.py', "type='CosineAnnealingLR', T_max=2, eta_min='x'"),
                        ('zero.py', "type='StepLR', step_size=0"),
                        ('milestones.py', "type='MultiStepLR', milestones='x'"),
                        ('flag.py', "type='LinearLR', start_factor=0.1, by_epoch='no'"),
                        ('course.py', "type='CosineRestartLR', periods=[1, 5], restart_weights=[1., 'x'], eta_min=0")):
        (folder / f'schedule_{name}').write_text(f"_base_ = './good.py'\nparam_scheduler = [dict({entry})]\n"
                                                'train_cfg = dict(max_epochs=3)\n')
    (folder / 'misspelt.py').write_text("_base_ = './good.py'\noptim_wraper = dict(optimizer=dict(lr=1.))\n")
    (folder / 'older.py').write_text("_base_ = './good.py'\ntrain_dataloader = dict(dataset=dict(metainfo=dict("
                                     "CLASSES=('dark', 'bright'))))\n")
    (folder / 'old.py').write_text("_base_ = './good.py'\npretrained = 'other.pth'\n")
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), folder / 'other.pth')
    torch.save(dict(state_dict=dict(weight=3.), epoch=3), folder / 'numbers.pth')
    torch.save(dict(state_dict={'neck.lateral_convs.0.conv.bias': torch.zeros(16)}, message_hub={},
                    meta=dict(epoch=1, iter=2), optimizer=dict(state={})), folder / 'otherwise.pth')
    (folder / 'cut.pth').write_bytes((folder / 'other.pth').read_bytes()[:-200])
    flipped = bytearray((folder / 'other.pth').read_bytes())
    flipped[flipped.index(b'other')] ^= 1
    (folder / 'flipped.pth').write_bytes(flipped)
    torch.save(dict(state_dict={}, run=argparse.Namespace()), folder / 'foreign.pth')
    return folder


@pytest.fixture
def refused(folder, monkeypatch, capfd):
    """A function: arguments of `mmrev` that end in two lines and status 2, with nothing written."""

    def refused(arguments, problem, fix):
        monkeypatch.chdir(folder)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
        status = main(arguments)
        errors = capfd.readouterr().err
        assert problem in said(errors)[0] and fix in errors, errors
        assert status == 2
        assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before

    return refused
