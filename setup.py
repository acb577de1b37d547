"""Packaging of mmrev. The set-up of a working copy, with pinned versions, is `make`: see tools/setup."""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Version as the package itself states it, read without importing it."""
    text = (ROOT / 'mmrev' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


def read_readme() -> str:
    """Text of the project page."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='mmrev',
    version=read_version(),
    description='Memory-efficient training for OpenMMLab: reversible and parameter-free networks, InPlace-ABN',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='The mmrev authors',
    license='Apache-2.0',
    license_files=['LICENSE', 'NOTICE'],
    keywords=['reversible networks', 'memory-efficient training', 'InPlace-ABN', 'object detection', 'OpenMMLab'],
    project_urls={
        'RevBiFPN': 'https://arxiv.org/abs/2206.14098',
        'Reversible Vision Transformers': 'https://arxiv.org/abs/2302.04869',
        'InPlace-ABN': 'https://arxiv.org/abs/1712.02616',
        'Parameter-free layers': 'https://arxiv.org/abs/2202.02777',
    },
    packages=find_packages(include=['mmrev', 'mmrev.*']),
    # `.mim` holds links to configs/, tools/ and model-index.yml, where mmengine looks for `mmrev::...`.
    package_data={'mmrev': ['py.typed', '.mim/model-index.yml', '.mim/configs/**', '.mim/tools/**']},
    exclude_package_data={'mmrev': ['.mim/tools/setup/*', '.mim/tools/docs/*', '.mim/**/__pycache__/*',
                                    '.mim/**/*.pyc']},
    include_package_data=False,
    python_requires='>=3.10',
    install_requires=['torch>=2.1'],  # names that the oldest lacks are in mmrev/compat.py
    extras_require={
        # mmdet 3.3 refuses mmcv 2.2; mmcv's build passes -std=c++17, which torch 2.14's headers refuse; mmengine
        # imports pkg_resources when it runs, which setuptools 81 dropped.
        'openmmlab': [
            'mmengine>=0.10.7,<0.11',
            'mmcv>=2.1.0,<2.2.0',
            'mmdet>=3.3.0,<3.4',
            'mmpretrain>=1.2.0,<1.3',
            'setuptools<81',
            'torch>=2.1,<2.14',
            'torchvision>=0.16',
        ],
        # Needs mmcv < 2.2 as well; its text encoder, which it always imports, needs ftfy and regex.
        'segmentation': ['mmsegmentation>=1.2.2,<1.3', 'ftfy', 'regex'],
        'inplace-abn': ['inplace-abn>=1.1.0'],
        'benchmark': ['matplotlib', 'timm>=1.0'],  # EfficientNet, to compare with
        'docs': ['mkdocs', 'mkdocstrings[python]'],
        'dev': ['matplotlib', 'mypy', 'ninja', 'onnx', 'onnxruntime', 'onnxscript', 'pre-commit', 'pytest',
                'pytest-xdist', 'ruff', 'scikit-learn', 'setuptools<81', 'tensorboard', 'wheel'],
    },
    entry_points={'console_scripts': ['mmrev = mmrev.cli:main']},
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
)
