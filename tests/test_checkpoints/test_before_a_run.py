"""Checkpoints with published names where ``mmrev train`` and ``mmrev test`` look at them before a run."""
import argparse
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmrev.cli.preflight import check_weights, read_checkpoint
from mmrev.problems import ProblemError
from mmrev.registry import MODELS

CONFIG = Path(__file__).parents[2] / 'configs' / 'revbifpn' / 'revbifpn-s0_8xb128_in1k.py'


@pytest.mark.parametrize('content', [
    lambda weights: weights,
    lambda weights: dict(state_dict=weights, epoch=3, args=argparse.Namespace(lr=0.1)),
])
def test_they_take_a_local_file_as_it_was_trained(content, weights, converted, same_tensors, tmp_path):
    file = tmp_path / 'model_best.pth.tar'
    torch.save(content(weights), file)
    checkpoint = read_checkpoint(str(file))
    assert same_tensors(checkpoint['state_dict'], converted)
    cfg = Config.fromfile(CONFIG)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    check_weights(MODELS.build(cfg.model), checkpoint, str(file), 'all of them')


def test_they_name_a_file_that_is_not_the_published_one(weights, tmp_path):
    file = tmp_path / 'revbifpn_s0.pth.tar'
    torch.save(weights, file)
    with pytest.raises(ProblemError, match='not their content') as error:
        read_checkpoint(str(file))
    assert '--any-hash' in error.value.fix


def test_they_name_a_file_that_is_cut_off(weights, tmp_path):
    file = tmp_path / 'model_best.pth.tar'
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ProblemError, match='truncated'):
        read_checkpoint(str(file))
