"""A disk that can be full, and what is done as soon as something holds."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path


class Disk:
    """A disk of its own, of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("size=64m", "-t", "tmpfs", "tmpfs")

    def resize(self, kilobytes: int) -> None:
        self._mount(f"remount,size={kilobytes}k")

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _mount(self, options: str, *arguments: str) -> None:
        command = ["mount", "-o", options, *arguments, str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a condition holds, beside the run."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(1e-3)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
