"""Answers are what the model gives for the same captions and videos."""

import base64
import struct

import numpy as np
import openai
import pytest
import torch

from simvtp import read_video
from testing.pipelines.served import CAPTIONS

# Rows that share a pass differ by the order of sums; alone they are the same to the bit.
TOLERANCE = {"rtol": 0, "atol": 1e-6}


def embedded(told):
    assert [one["index"] for one in told["data"]] == list(range(len(told["data"])))
    return np.array([one["embedding"] for one in told["data"]], dtype=np.float32)


def base64_of(file):
    return base64.b64encode(file.read_bytes()).decode()


@torch.no_grad()
def texts_of(model, captions):
    return model.encode_text(list(captions)).numpy()


@torch.no_grad()
def videos_of(model, files):
    return np.concatenate([model.encode_video(read_video(file, model)).numpy() for file in files])


def test_a_text_alone_is_the_same_to_the_bit(site, tiny):
    status, told, _ = site.ask("/v1/embeddings", {"input": CAPTIONS[0], "model": "tiny"})
    assert status == 200
    np.testing.assert_array_equal(embedded(told), texts_of(tiny, CAPTIONS[:1]))
    assert told["object"] == "list"
    assert told["model"] == "tiny"
    num_tokens = len(tiny.tokenizer.encode(CAPTIONS[0]).ids)
    assert told["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def test_videos_are_those_of_embedding_however_they_are_sent(site, tiny, videos):
    expected = videos_of(tiny, videos)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    address = f"data:video/mp4;base64,{base64_of(videos[1])}"
    as_json = [{"video": base64_of(videos[0])}, {"video": address}]
    status, told, _ = site.ask("/v1/embeddings", {"input": as_json})
    assert status == 200
    np.testing.assert_allclose(embedded(told), expected, **TOLERANCE)
    grid = tiny.config.num_video_tokens
    assert told["usage"]["total_tokens"] == 2 * grid
    path = "/v1/videos/embeddings"
    status, told, _ = site.ask(path, videos[1].read_bytes(), Content_Type="video/mp4")
    assert status == 200
    np.testing.assert_array_equal(embedded(told), expected[1:])
    status, told, _ = site.form(path, *(("file", video.read_bytes()) for video in videos))
    assert status == 200
    np.testing.assert_allclose(embedded(told), expected, **TOLERANCE)
    status, told, _ = site.ask(f"{path}?encoding_format=base64", videos[1].read_bytes())
    (row,) = [one["embedding"] for one in told["data"]]
    assert struct.unpack("<32f", base64.b64decode(row)) == tuple(expected[1].tolist())


def test_texts_and_videos_of_one_request_keep_their_order(site, tiny, videos):
    mixed = [CAPTIONS[1], {"video": base64_of(videos[0])}, {"text": CAPTIONS[2]}]
    _, told, _ = site.ask("/v1/embeddings", {"input": mixed})
    text, video = texts_of(tiny, CAPTIONS[1:]), videos_of(tiny, videos[:1])
    np.testing.assert_allclose(embedded(told), np.stack([text[0], video[0], text[1]]), **TOLERANCE)


def test_pairs_are_matched(site, tiny, videos):
    with torch.no_grad():
        clips = torch.cat([read_video(file, tiny) for file in videos])
        expected = tiny.match(clips, list(CAPTIONS[:2])).numpy()
        of_one = tiny.match(clips[:1].expand(3, -1, -1, -1, -1), list(CAPTIONS)).numpy()
    assert np.ptp(of_one) > 1e-4
    pairs = [
        {"text": text, "video": base64_of(video)}
        for text, video in zip(CAPTIONS, videos, strict=False)
    ]
    status, told, _ = site.ask("/match", {"pairs": pairs})
    assert status == 200
    np.testing.assert_allclose([one["score"] for one in told["data"]], expected, **TOLERANCE)
    texts = [("text", text) for text in CAPTIONS]
    status, told, _ = site.form("/match", ("file", videos[0].read_bytes()), *texts)
    assert status == 200
    np.testing.assert_allclose([one["score"] for one in told["data"]], of_one, **TOLERANCE)


def test_openai_s_client_works(site, tiny):
    with openai.OpenAI(base_url=f"{site.address}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "simvtp"
        # As base64, as the client asks where nothing is said.
        for settings in ({}, {"encoding_format": "float"}, {"dimensions": 32, "user": "u"}):
            told = client.embeddings.create(model="tiny", input=list(CAPTIONS), **settings)
            rows = np.array([one.embedding for one in told.data], dtype=np.float32)
            np.testing.assert_allclose(rows, texts_of(tiny, CAPTIONS), **TOLERANCE)
        with pytest.raises(openai.NotFoundError, match="there is one model here, tiny"):
            client.embeddings.create(model="text-embedding-3-small", input="a")
        with pytest.raises(openai.BadRequestError, match="at least one word") as raised:
            client.embeddings.create(model="tiny", input=["a", " \t"])
        assert raised.value.param == "input[1]"


def test_health_and_description(site):
    assert site.ask("/health")[:2] == (200, {"status": "ok"})
    assert site.ask("/ready")[:2] == (200, {"status": "ready"})
    status, told, _ = site.ask("/openapi.json")
    assert status == 200
    body = told["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]) == {
        *("input", "model", "user", "encoding_format", "dimensions")
    }
    assert "$defs" not in str(body)


def test_unknown_words_are_told(site, videos):
    unknown = "wholly unheard-of vocabulary"
    status, told, _ = site.ask("/v1/embeddings", {"input": [CAPTIONS[0], unknown]})
    assert status == 200
    assert told["note"].startswith(
        f"the vocabulary lacks most words of 1 of 2 texts, such as '{unknown}'"
    )
    _, told, _ = site.form("/match", ("file", videos[0].read_bytes()), ("text", unknown))
    assert told["note"].startswith(f"the vocabulary lacks most words of '{unknown}'")
    for body in ({"input": CAPTIONS[0]}, {"input": [{"video": base64_of(videos[0])}]}):
        assert "note" not in site.ask("/v1/embeddings", body)[1]
