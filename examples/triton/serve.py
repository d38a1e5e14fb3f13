"""Serve a repository with the Triton server of the wheel nvidia-pytriton, on this machine's CPU.

Run it with the Python of the environment that holds the wheel:

    python -m venv server
    server/bin/pip install nvidia-pytriton 'numpy<2' onnxruntime tokenizers av pillow
    server/bin/python examples/triton/serve.py models

The wheel carries the server and its Python backend alone: generate the repository with
`python -m export.triton --backend python --device cpu`. It listens on the loopback only.
"""

import argparse
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Replace this process by the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    options = parser.parse_args()
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        sys.exit("error: nvidia-pytriton is missing here; pip install nvidia-pytriton 'numpy<2'")
    if not options.repository.is_dir():
        sys.exit(f"error: there is no folder {options.repository}")
    package = Path(spec.origin).parent
    # The server looks for the interpreter's stub beside its backend, the wheel has one of each.
    backends = Path(sys.prefix) / "triton-backends"
    shutil.copytree(package / "tritonserver" / "backends", backends, dirs_exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = (
        package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    )
    if not stub.is_file():
        sys.exit(f"error: nvidia-pytriton has no stub for Python {version}")
    shutil.copy(stub, backends / "python")
    libraries = package.parent / "nvidia_pytriton.libs"
    known = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = f"{libraries}:{known}" if known else str(libraries)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # The stub starts the interpreter of this environment.
    os.environ["VIRTUAL_ENV"] = sys.prefix
    os.environ["PYTHONPATH"] = str(package.parent)
    server = package / "tritonserver" / "bin" / "tritonserver"
    command = [
        str(server),
        f"--model-repository={options.repository.resolve()}",
        f"--backend-directory={backends}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        f"--http-port={options.http_port}",
        f"--grpc-port={options.grpc_port}",
        "--allow-metrics=false",
        "--exit-on-error=true",
    ]
    os.execv(server, command)


if __name__ == "__main__":
    main()
