"""What a plain install leaves out is imported where it is used, and told by its extra."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from simvtp.extras import MissingPackageError, needs

ROOT = Path(__file__).parents[1]
# Rooms whose extra is asked for when they are entered.
OF_AN_EXTRA = (
    *("simvtp/retrieval/video_index", "simvtp/pipelines/search/page"),
    *("simvtp/engines/ray_cluster", "simvtp/pipelines/local_requests", "simvtp/pipelines/serve"),
)
# PyYAML comes with jsonargparse, whose files of settings it reads.
COMES_ALONG = {"pyyaml"}


def test_a_missing_package_is_told_with_its_extra():
    told = r"a dance needs .*no_such_package.*pip install 'simvtp\[steps\]'"
    with pytest.raises(MissingPackageError, match=told) as error, needs("steps", "a dance"):
        import no_such_package  # noqa: F401 # pyright: ignore[reportMissingImports]
    assert error.value.name == "no_such_package"
    # Commands refuse it as they refuse any bad setting.
    assert isinstance(error.value, ValueError)


def test_other_errors_pass_through():
    with pytest.raises(KeyError), needs("steps", "a dance"):
        raise KeyError


def imported_at_once(file):
    for node in ast.parse(file.read_text()).body:
        for part in node.body if isinstance(node, ast.With) else [node]:
            if isinstance(part, ast.Import):
                yield from (name.name.partition(".")[0] for name in part.names)
            elif isinstance(part, ast.ImportFrom):
                yield (part.module or "").partition(".")[0]


def test_modules_import_the_core_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    owners = packages_distributions()
    for file in ROOT.glob("simvtp/**/*.py"):
        if file.relative_to(ROOT).as_posix().startswith(OF_AN_EXTRA):
            continue
        for name in set(imported_at_once(file)) - {"simvtp", *sys.stdlib_module_names}:
            owner = {canonicalize_name(each) for each in owners.get(name, [name])}
            assert owner & (core | COMES_ALONG), f"{file} imports {name}, which is not in the core"
