"""A graph that was really compiled: what it computes, in Python, in C++, and beside the others.

One file, so that the compilation is paid for once.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.aoti import AotiSettings, compile_folder
from export.bench import BenchOptions, bench
from export.drawn_inputs import example_inputs
from export.graphs import INPUTS
from export.runtime import Runtime
from export.runtime.folder import ExportedFolder, Range
from testing.export.small_export import CAPTIONS, clips

# A compilation takes twenty seconds of a quiet core.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EXAMPLE = Path(__file__).parents[3] / "examples" / "aoti_cpp" / "run_graph.cpp"


@pytest.fixture(scope="module")
def compiled(
    exported_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportedFolder:
    """The graph that takes clips and captions both."""
    # What calls the kernels need not be fast here: it takes the compiler longer than they do.
    with torch._inductor.config.patch({"aot_inductor.compile_wrapper_opt_level": "O0"}):
        return compile_folder(
            exported_model_folder,
            tmp_path_factory.mktemp("compiled") / "compiled",
            AotiSettings(graphs=("match",), batch=Range(1, 2, 4), tokens=Range(3, 8, 16)),
        )


@pytest.fixture(scope="module")
def runtime(compiled):
    with Runtime(compiled.path, backend="aoti") as opened:
        yield opened


def draw(compiled, *, batch, tokens, seed=0):
    config = compiled.model["config"]
    return example_inputs(config, "match", batch=batch, tokens=tokens, seed=seed)


def expected_of(model, inputs):
    frames, ids, mask = (torch.from_numpy(inputs[key]) for key in INPUTS["match"])
    with torch.inference_mode():
        return model.match(frames, ids, attend=mask == 1).numpy()


@pytest.fixture(scope="module")
def saved(compiled, exported_model, tmp_path_factory):
    """Inputs as files of torch.save, and what the model says of them."""
    folder = tmp_path_factory.mktemp("saved")
    inputs = draw(compiled, batch=3, tokens=11)
    for name, array in inputs.items():
        torch.save(torch.from_numpy(array), folder / f"{name}.pt")
    files = [folder / f"{name}.pt" for name in INPUTS["match"]]
    return [str(file) for file in files], expected_of(exported_model, inputs)


class TestFolder:
    def test_what_is_told(self, compiled, exported):
        report = compiled.report
        assert (report["kind"], report["device"], report["precision"]) == ("aoti", "cpu", "fp32")
        assert report["versions"]["torch"] == version("torch")
        assert report["model"] == exported.report["model"]
        assert compiled.opset is None
        spec, same = compiled.graph("match"), exported.graph("match")
        assert (spec.inputs, spec.outputs, spec.ranges) == (same.inputs, same.outputs, same.ranges)
        assert {path.name for path in compiled.path.iterdir()} == {
            *("match.pt2", "tokenizer.json", "preprocessor.json", "report.json", "report.md")
        }

    def test_compared_at_the_corners(self, compiled):
        rows = compiled.report["parity"]["match"]
        sizes = [(row["batch"], row["tokens"]) for row in rows]
        assert sizes == [(1, 3), (1, 16), (4, 3), (4, 16)]
        assert all(row["by"] == "aoti" and row["max_abs_error"] <= 1e-5 for row in rows)
        assert "compiled for cpu" in (compiled.path / "report.md").read_text()

    def test_as_many_threads_as_whoever_runs_it(self, compiled):
        with zipfile.ZipFile(compiled.file("match")) as archive:
            sources = [name for name in archive.namelist() if name.endswith(".cpp")]
            code = b"".join(archive.read(name) for name in sources)
        assert b"#pragma omp" in code
        assert b"num_threads(" not in code


class TestRuntime:
    @settings(max_examples=15, deadline=None)
    @given(batch=st.integers(1, 4), tokens=st.integers(3, 16), seed=st.integers(0, 999))
    def test_any_size_within_the_ranges(self, runtime, compiled, exported_model, **sizes):
        inputs = draw(compiled, **sizes)
        found = runtime.run("match", inputs)["match_probability"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected_of(exported_model, inputs), atol=1e-5)

    def test_captions_and_arrays_that_may_only_be_read(self, runtime, exported_model):
        frames = clips(exported_model, 4, seed=1)
        frames.setflags(write=False)
        with torch.inference_mode():
            wanted = exported_model.match(torch.tensor(frames), list(CAPTIONS)).numpy()
        np.testing.assert_allclose(runtime.match(frames, list(CAPTIONS)), wanted, atol=1e-5)

    @pytest.mark.parametrize("wrong", [-1, 10**9])
    def test_an_index_that_is_none_spoils_its_row_only(self, runtime, compiled, wrong):
        inputs = draw(compiled, batch=3, tokens=5)
        with pytest.raises(ValueError, match="token_ids must be from 0 to"):
            runtime.run("match", inputs | {"token_ids": inputs["token_ids"] * 0 + wrong})
        # As servers call it, which check nothing before.
        whole = runtime.open("match").run(inputs)["match_probability"]
        inputs["token_ids"][1, 2] = wrong
        found = runtime.open("match").run(inputs)["match_probability"]
        assert np.isnan(found[1])
        np.testing.assert_array_equal(found[[0, 2]], whole[[0, 2]])

    def test_threads_are_those_of_torch(self, compiled):
        before = torch.get_num_threads()
        try:
            with Runtime(compiled.path, backend="aoti", threads=before + 1) as opened:
                opened.open("match")
                assert torch.get_num_threads() == before + 1
        finally:
            torch.set_num_threads(before)


def test_python_without_the_library(compiled, saved):
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('simvtp', 'export'))\n"
        "import torch\n"
        "graph = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "print(graph(*map(torch.load, sys.argv[2:])).tolist())\n"
    )
    files, wanted = saved
    command = [sys.executable, "-c", code, compiled.file("match"), *files]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(np.array(json.loads(told)), wanted, atol=1e-5)


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)
def test_cpp(compiled, saved, tmp_path):
    torch_folder = torch.__path__[0]
    include = (f"-I{torch_folder}/include", f"-I{torch_folder}/include/torch/csrc/api/include")
    libraries = ("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10")
    where = (f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib")
    compiler, program = os.environ.get("CXX", "g++"), tmp_path / "run_graph"
    build = (compiler, "-std=c++20", EXAMPLE, "-o", program, *include, *where, *libraries)
    subprocess.run(build, check=True)
    files, wanted = saved
    output = tmp_path / "output.pt"
    subprocess.run([program, compiled.file("match"), output, *files], check=True)
    np.testing.assert_allclose(torch.load(output).numpy(), wanted, atol=1e-5)
    # Of a wrong type the code would read memory that is not the tensor's.
    torch.save(torch.load(files[1]).int(), tmp_path / "ids.pt")
    wrong = [files[0], tmp_path / "ids.pt", files[2]]
    done = subprocess.run(
        [program, compiled.file("match"), output, *wrong], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "unmatched dtype" in done.stderr


def test_bench(compiled, exported, exported_model_folder):
    only = ("torch-eager", "onnxruntime-cpu", "aoti-cpu", "aoti-cuda")
    options = BenchOptions(
        ("match",),
        (1, 3),
        repeats=1,
        warmup=0,
        aoti=(compiled.path,),
        model=exported_model_folder,
        only=only,
    )
    timings, skipped = bench(exported, options)
    assert [(row.batch, row.contestant) for row in timings] == [
        (batch, name) for batch in (1, 3) for name in only[:3]
    ]
    assert all(row.max_difference < 1e-5 for row in timings)
    assert [row.contestant for row in skipped] == ["aoti-cuda"]
