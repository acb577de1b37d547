"""Draw the diagrams of docs/architecture.md from the code: which part imports which, and what each file is for.

`python docs/architecture.py` writes them between the markers of the page; `--check` only says whether they are current.
"""
import ast
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set

ROOT = Path(__file__).parents[1] / 'mmrev'
PAGE = Path(__file__).with_suffix('.md')
HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg')


def imports(path: Path) -> Iterator[str]:
    """Absolute names of what a file imports when it is imported itself, not within its functions."""
    package = ('mmrev', *path.relative_to(ROOT).parts[:-1])
    statements: List[ast.stmt] = list(ast.parse(path.read_text(encoding='utf-8')).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[:len(package) - node.level + 1]) if node.level else ''
            module = '.'.join(filter(None, [base, node.module]))
            yield from (f'{module}.{alias.name}' for alias in node.names)
        elif isinstance(node, (ast.Try, ast.If)) and 'TYPE_CHECKING' not in ast.unparse(node)[:20]:
            statements += node.body


def files(part: str) -> List[Path]:
    """The files of a part: a folder or a file of the package."""
    return [ROOT / part] if part.endswith('.py') else sorted((ROOT / part).rglob('*.py'))


def parts() -> List[str]:
    """Folders and files of the package that others can import."""
    found = [path.name for path in ROOT.iterdir() if (path / '__init__.py').exists() or path.suffix == '.py']
    return sorted(name for name in found if not name.startswith(('_', '.')))


def graph(paths: Dict[str, List[Path]], prefix: str) -> Dict[str, Set[str]]:
    """Who imports whom: names of `paths`, each with those names that its files import from ``prefix``."""
    known = {name.removesuffix('.py'): name for name in paths}
    edges = {}
    for name, own in paths.items():
        found = {module.removeprefix(prefix).split('.')[0] for path in own for module in imports(path)
                 if module.startswith(prefix)}
        edges[name] = {known[module] for module in found if module in known} - {name}
    return edges


def reduced(edges: Dict[str, Set[str]]) -> Dict[str, List[str]]:
    """Without the edges that follow from others: those to what an imported part imports as well."""

    def below(name: str) -> Set[str]:
        return edges[name].union(*map(below, edges[name]))

    return {name: sorted(to for to in edges[name] if not any(to in below(other) for other in edges[name]))
            for name in edges}


def mermaid(edges: Dict[str, Set[str]]) -> List[str]:
    """A flowchart, each arrow from what imports to what is imported."""
    lines = ['```mermaid', 'flowchart TD']
    for name, targets in sorted(reduced(edges).items()):
        lines += [f'    {identifier(name)}["{name}"] --> {identifier(to)}["{to}"]' for to in targets]
        lines += [f'    {identifier(name)}["{name}"]'] * (not targets)
    return [*lines, '```']


def identifier(name: str) -> str:
    """Mermaid keeps some words for itself."""
    return 'part_' + name.replace('.', '_')


def purpose(path: Path) -> str:
    """The first sentence of a file's or a folder's docstring."""
    file = path / '__init__.py' if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or ''
    return ' '.join(text.split('\n\n')[0].split())


def sections() -> Dict[str, List[str]]:
    """The generated parts of the page, by marker."""
    package = {name: files(name) for name in parts()}
    engine = {path.name: [path] for path in files('reversible') if path.name != '__init__.py'}
    table = ['| part | needs besides PyTorch | what it is for |', '|---|---|---|']
    for name, paths in package.items():
        hosts = sorted({module.split('.')[0] for path in paths for module in imports(path)} & set(HOSTS))
        table.append(f'| `{name}` | {", ".join(hosts) or "–"} | {purpose(ROOT / name)} |')
    rows = ['| file | what it is for |', '|---|---|']
    rows += [f'| `{name}` | {purpose(paths[0])} |' for name, paths in engine.items()]
    return {'package': [*mermaid(graph(package, 'mmrev.')), '', *table],
            'engine': [*mermaid(graph(engine, 'mmrev.reversible.')), '', *rows]}


def drawn(page: str) -> str:
    """The page with its generated parts as the code has them now."""
    for marker, lines in sections().items():
        begin, end = f'<!-- begin {marker} -->\n', f'<!-- end {marker} -->'
        before, _, rest = page.partition(begin)
        page = before + begin + '\n'.join(lines) + '\n' + end + rest.partition(end)[2]
    return page


def main() -> int:
    """Write the page; return 1 if ``--check`` finds it out of date."""
    page = PAGE.read_text(encoding='utf-8')
    if '--check' in sys.argv:
        return int(drawn(page) != page)
    PAGE.write_text(drawn(page), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
