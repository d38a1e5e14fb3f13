from dataclasses import asdict

from export.onnx.settings import ExportSettings
from export.runtime.folder import Range


class TestRanges:
    def test_defaults_fit_the_model(self, exported_model):
        config = asdict(exported_model.config)
        ranges = ExportSettings().ranges("text", config=config)
        assert ranges == {"batch": Range(1, 4, 16), "tokens": Range(3, 16, 16)}
        long = config | {"max_text_length": 512}
        assert ExportSettings().ranges("match", config=long)["tokens"] == Range(3, 32, 64)
        assert set(ExportSettings().ranges("video", config=config)) == {"batch"}

    def test_pre_training_keeps_a_tenth(self):
        config = {"num_frames": 16, "tubelet_frames": 2, "image_size": 224, "patch_size": 16}
        ranges = ExportSettings().ranges("reconstruct", config=config | {"max_text_length": 64})
        assert ranges["kept"] == Range(1, 160, 1568)
