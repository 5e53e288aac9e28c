"Hands what stands in `settings.ini` to setuptools. Edit `settings.ini`, not this file."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(k): return [o.strip() for o in cfg.get(k, '').splitlines() if o.strip()]

statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature', '7 - Inactive']
pythons = cfg['python_versions'].split()
assert pythons[0] == cfg['min_python'], 'settings.ini: `python_versions` starts at `min_python`'
lib = cfg['lib_name']

setup(
    name=cfg['dist_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], keywords=cfg['keywords'].split(),
    license_expression=cfg['license'], license_files=['LICENSE'],
    classifiers=[f'Development Status :: {statuses[int(cfg["status"])-1]}',
                 *(f'Intended Audience :: {o}' for o in cfg['audience'].split()),
                 f'Natural Language :: {cfg["language"]}',
                 'Programming Language :: Python :: 3', 'Programming Language :: Python :: 3 :: Only',
                 *(f'Programming Language :: Python :: {o}' for o in pythons),
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    packages=[cfg['lib_path']], include_package_data=False, package_data={cfg['lib_path']: ['static/*']},
    python_requires=f'>={cfg["min_python"]}', install_requires=lines('requirements'),
    extras_require={o: lines(f'{o}_requirements') for o in cfg['extras'].split()},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': [f'{lib}={lib}._modidx:d']},
)
