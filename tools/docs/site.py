"""Add pages to the site of docs/: the READMEs, other files of the repository that pages link to, and the model zoo.

A hook of MkDocs (`mkdocs.yml`). A page keeps its path in the repository, so that its relative links work there and on
the site; README.md becomes the front page, and docs/X.md is in the same folder.
"""
import posixpath
import re
from pathlib import Path
from typing import Any, Dict, List

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {'index.md': 'README.md', 'CHANGELOG.md': 'CHANGELOG.md', 'CONTRIBUTING.md': 'CONTRIBUTING.md', **{
    f'configs/{path.parent.name}/README.md': f'configs/{path.parent.name}/README.md'
    for path in sorted((ROOT / 'configs').glob('*/README.md'))}}
ZOO = 'model_zoo.md'
_LINK = re.compile(r'(\]\()([^)\s#]*)(#[^)\s]*)?(\))')
_CODE = re.compile(r'(```.*?```)', re.DOTALL)
_ROLE = re.compile(r':(?:class|func|meth|attr|mod|data):<code>~?([\w.]+)</code>')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the files that they or those of docs/ link to."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding='utf-8')))
    files.append(File.generated(config, ZOO, content=model_zoo()))
    sources = {**{file.src_uri: f'docs/{file.src_uri}' for file in files.documentation_pages()}, **PAGES}
    for page, source in sources.items():
        text = (ROOT / source).read_text(encoding='utf-8') if page != ZOO else ''
        for target in filter(None, (_target(source, link.group(2)) for link in _LINK.finditer(text))):
            place = _place(target)
            if (ROOT / target).is_file() and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where the site has their targets."""
    here = page.file.src_uri
    source = PAGES.get(here, f'docs/{here}')

    def moved(link: 're.Match[str]') -> str:
        target = _target(source, link.group(2))
        if target is None:
            return link.group()
        return ''.join([link.group(1), posixpath.relpath(_place(target), posixpath.dirname(here) or '.'),
                        link.group(3) or '', link.group(4)])

    parts = _CODE.split(markdown)
    return ''.join(part if part.startswith('```') else _LINK.sub(moved, part) for part in parts)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Show the roles of docstrings, as in :class:`~mmrev.testing.PeakMemory`, by the last name."""
    return _ROLE.sub(lambda role: f'<code>{role.group(1).rpartition(".")[2]}</code>', html)


def _target(source: str, link: str) -> Any:
    """The path in the repository that a relative link of a file there names, or None."""
    if not link or '://' in link or link.startswith('mailto:'):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _place(target: str) -> str:
    """The place on the site of a path of the repository; a folder is its README, or the list of all models."""
    if (ROOT / target).is_dir():
        target = f'{target}/README.md' if (ROOT / target / 'README.md').exists() else f'docs/{ZOO}'
    return 'index.md' if target == 'README.md' else target.removeprefix('docs/')


def model_zoo() -> str:
    """The page of all models of the metafiles."""
    lines = ['# Model zoo', '', _ZOO_HEAD]
    for path in sorted((ROOT / 'configs').glob('*/metafile.yml')):
        entries = yaml.safe_load(path.read_text(encoding='utf-8'))
        name = entries['Collections'][0]['Name']
        recipe = f'[Configs and recipe](configs/{path.parent.name}/README.md)'
        lines += ['', f'## {name}', '', recipe, '', _HEADER, _RULE]
        lines += [_row(model) for model in entries['Models']]
    return '\n'.join([*lines, ''])


_ZOO_HEAD = '''Made from the metafiles of the families. "Published" is what the authors of a paper or of weights state.
"Measured" was measured with mmrev: peak memory per image in a training step, without weights and their gradients, and
the time of a step on two CPU cores; what it is relative to is plain autograd. Models without weights have not been
trained here to the end. Weights load by name: `mmrev://NAME`, see [Published weights](pretrained.md).'''
_HEADER = '| model | task | parameters | MACs | pixels | published | measured | weights |'
_RULE = '|---|---|---|---|---|---|---|---|'


def _row(model: Dict[str, Any]) -> str:
    facts, results = model.get('Metadata') or {}, model.get('Results') or []
    figures: List[str] = []
    for result in results:
        figures += [f'{key.replace(" Accuracy", "")} {value}' for key, value in (result.get('Metrics') or {}).items()]
    weights = f'[file]({model["Weights"]})' if model.get('Weights') else (
        f'[page]({model["Published Weights"]})' if model.get('Published Weights') else '')
    cells = [f'`{model["Name"]}`', ', '.join(result['Task'] for result in results), _millions(facts.get('Parameters')),
             _billions(facts.get('FLOPs')), str(facts.get('Resolution', '')), ', '.join(figures),
             '; '.join(f'{what}: {value}' for what, value in (model.get('Measured') or {}).items()), weights]
    return f'| {" | ".join(cells)} |'


def _millions(number: Any) -> str:
    return f'{number / 1e6:.2f} M' if number else ''


def _billions(number: Any) -> str:
    return f'{number / 1e9:.2f} G' if number else ''
