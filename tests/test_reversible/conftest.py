"""The networks of these tests are small; a node of autograd's graph for each coupling, as in large networks."""
import pytest

from mmrev.reversible import plan


@pytest.fixture(autouse=True)
def a_node_for_each_coupling(monkeypatch):
    monkeypatch.setattr(plan, 'NODE_BYTES', 0)
