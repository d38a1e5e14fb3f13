import csv

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Eight photographs of one brightness each, with captions."""
    folder = tmp_path_factory.mktemp("photographs")
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "caption"])
        for number in range(8):
            pixels = np.full((48, 64, 3), 25 * number + 10, np.uint8)
            name = f"{number}.{'png' if number % 2 else 'jpg'}"
            Image.fromarray(pixels).save(folder / name, quality=95)
            rows.writerow([name, f"a picture of grey {number}"])
    return folder / "photos.csv"
