"""A file imports only from lower floors; packages of one floor do not know each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    6: ("simvtp.pipelines",),
    5: ("export",),
    4: ("simvtp.retrieval",),
    3: (
        *("simvtp.model", "simvtp.objective", "simvtp.batch", "simvtp.layer_decay"),
        *(
            "simvtp.model_card",
            "simvtp.tasks",
            "simvtp.trainer",
            "simvtp.part_trial",
            "simvtp.assembled",
        ),
        *("simvtp.reconstruction", "simvtp.model_folder", "simvtp.step_tokens", "simvtp.parts"),
        *("simvtp.step_features", "simvtp.clip_features", "simvtp.own_files"),
        *("simvtp.step_flops", "simvtp.source_losses"),
    ),
    2: (
        *("simvtp.encoders", "simvtp.decoders", "simvtp.masking", "simvtp.losses"),
        *("simvtp.data", "simvtp.training", "simvtp.metrics", "simvtp.conversion"),
        "simvtp.engines",
    ),
    1: ("simvtp.layers", "simvtp.decoding", "simvtp.command_line"),
    0: (
        "simvtp.config",
        "simvtp.seeding",
        "simvtp.named_files",
        "simvtp.printing",
        "simvtp.files",
        "simvtp.lettering",
        "simvtp.extras",
    ),
}
# A method of the model that calls what stands on it, and loads it only then.
REACHES_UP = {("simvtp.model", "export.onnx"), ("simvtp.model", "export.aoti")}
FILES = sorted([*ROOT.glob("simvtp/**/*.py"), *ROOT.glob("export/**/*.py")])


def place_of(module):
    """Floor and package of a module; None for other libraries and simvtp itself."""
    for floor, packages in FLOORS.items():
        for package in packages:
            if module == package or module.startswith(package + "."):
                return floor, package
    return None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "simvtp":
                yield from (f"simvtp.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    place = place_of(module)
    if place is None:
        assert module == "simvtp", f"{module} has no floor"
        return
    floor, package = place
    for imported in imports_of(path):
        target = place_of(imported)
        if target is None or target[1] == package or (module, imported) in REACHES_UP:
            continue
        # Floor 3 is one layer, whose files may use each other.
        lower = target[0] < floor or floor == target[0] == 3
        assert lower, f"{module} (floor {floor}) imports {imported} (floor {target[0]})"
        forbidden = package == "export" and target[1] in ("simvtp.pipelines", "simvtp.data")
        assert not forbidden, f"{module} must run without {imported}"


def test_what_tests_share_is_in_testing():
    """Nothing imports tests; only tests, and what they share, import `testing`."""
    for folder in ("simvtp", "export", "benchmarks", "tests", "testing"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            imported = {module.partition(".")[0] for module in imports_of(path)}
            assert "tests" not in imported, path
            assert "testing" not in imported or folder in ("tests", "testing"), path


def test_import_is_light():
    import subprocess
    import sys

    code = "import sys, torch; import simvtp; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for heavy in ("xformers", "av", "torchvision", "tensorboard", "matplotlib", "tokenizers"):
        assert f"'{heavy}'" not in loaded
