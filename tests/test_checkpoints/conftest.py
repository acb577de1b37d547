"""A RevBiFPN-S0 checkpoint as it is published, and what it becomes."""
import pytest
import torch

from mmrev.checkpoints.families.revbifpn import convert_state_dict
from support.golden import GoldenRecord


@pytest.fixture(scope='session')
def weights():
    """A whole state dict under the published names, in float32 as published weights are."""
    return {key: value.float() if value.is_floating_point() else value
            for key, value in GoldenRecord('revbifpn_s0').state_dict().items()}


@pytest.fixture(scope='session')
def converted(weights):
    """The same under the names of an mmpretrain classifier."""
    return convert_state_dict(weights)


@pytest.fixture(scope='session')
def same_tensors():
    """Whether two state dicts are equal, keys and values."""
    return lambda one, other: one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
