"""docs/architecture.md: its diagrams are those of the code, and the code has what its text names."""
import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/architecture.md').read_text(encoding='utf-8')
NAMED = sorted(set(re.findall(r'`([\w/]+\.py):(\w+)`', PAGE)))


@pytest.fixture(scope='module')
def drawing():
    spec = importlib.util.spec_from_file_location('architecture', ROOT / 'docs/architecture.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagrams_and_tables_are_those_of_the_code(drawing):
    assert drawing.drawn(PAGE) == PAGE, 'run `python docs/architecture.py`'


def test_a_new_import_is_seen(drawing):
    """An arrow that another one implies is left out, one that nothing implies is drawn."""
    edges = {'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}
    assert drawing.reduced(edges) == {'a': ['b'], 'b': ['c'], 'c': []}
    assert 'part_a["a"] --> part_b["b"]' in '\n'.join(drawing.mermaid(edges))


@pytest.mark.parametrize('file, name', NAMED)
def test_what_the_text_names_is_there(file, name):
    defined = set()
    for node in ast.parse((ROOT / 'mmrev' / file).read_text(encoding='utf-8')).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        defined |= {getattr(target, 'name', getattr(target, 'id', None)) for target in targets}
    assert name in defined


def test_the_text_names_the_way_of_a_batch():
    assert len(NAMED) > 10
