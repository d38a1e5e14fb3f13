"""The linear floor: what it sees of a clip, against a loop, and that it finds what is linear."""

import torch

from benchmarks.floors import fit, measure, neighbourhoods
from simvtp import ModelConfig, SimVTP
from simvtp.data.corpus.rendering import render_corpus
from simvtp.masking import TubeMasker


def test_a_neighbourhood_is_what_is_visible_around_a_tubelet():
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    tubes = TubeMasker((2, 4, 4), ratio=0.5)(2, generator=generator)
    found = neighbourhoods(video, tubes, tubelet=(2, 4, 4))
    for clip in range(2):
        for number, token in enumerate(tubes.drop[clip].tolist()):
            time, row, column = token // 16, token // 4 % 4, token % 4
            patches = {}
            for place in range(25):
                y, x = row + place // 5 - 2, column + place % 5 - 2
                if 0 <= y < 4 and 0 <= x < 4 and time * 16 + y * 4 + x in tubes.keep[clip]:
                    frames = video[clip, 2 * time : 2 * time + 2].double().mean(dim=0) / 255
                    part = frames[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                    halves = part.unflatten(2, (2, 2)).unflatten(1, (2, 2)).mean(dim=(2, 4))
                    patches[place] = halves.flatten()
            seen = torch.stack(list(patches.values()))
            expected = torch.zeros(25, 12).double()
            for place, patch in patches.items():
                expected[place] = (patch - seen.mean()) / (seen.std(correction=0) + 1 / 255)
            marks = torch.tensor([float(place in patches) for place in range(25)])
            got = found[clip, number].double()
            torch.testing.assert_close(got[:300], expected.flatten(), rtol=1e-3, atol=1e-4)
            assert torch.equal(got[300:], torch.cat([marks, torch.ones(1)]).double())


def test_the_regression_finds_what_is_linear():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(5, 3, generator=generator)
    features = torch.randn(4, 200, 5, generator=generator)
    weights = fit((part, part @ truth) for part in features)
    torch.testing.assert_close(weights.float(), truth, rtol=0.01, atol=0.01)


def test_floors_of_drawn_clips_are_in_order(tmp_path):
    corpus = render_corpus(
        tmp_path, num_train=24, num_validation=6, num_processes=1, progress=False
    )
    model = SimVTP.from_config(
        ModelConfig.preset("tiny", num_frames=8, patch_size=8, vocab_size=50)
    )
    found = measure(model, corpus.train_clips(), corpus.validation_clips(), ratio=0.75)
    assert 0.9 < found["pixel error: patch mean floor"] < 1
    assert found["pixel error: linear floor"] < found["pixel error: patch mean floor"]
    assert "pixel error, contours of objects: linear floor" in found
