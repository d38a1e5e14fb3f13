"""What is hostile or wrong is refused: rule, value and fix, and nothing of what was sent."""

import base64
import io
import json
import zipfile

import pytest

from simvtp.config import FrameSpacing
from simvtp.decoding.limits import ClipError
from simvtp.pipelines.serve.models.model_folder import read_evaluated_clip
from simvtp.pipelines.serve.models.served_model import ClipJob

SECRET = "do-not-repeat-me"


def refusal(answer, status):
    found, told, headers = answer
    assert found == status, told
    assert set(told) == {"error"}
    error = told["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert SECRET not in json.dumps(told)
    return error, headers


@pytest.mark.parametrize(
    ("body", "said", "param"),
    [
        ({}, "input is missing", "input"),
        ([], "object", None),
        ({"input": None}, "an input must be a text", "input"),
        ({"input": []}, "there is no 'input'; give from 1 to 8", "input"),
        ({"input": ["a"] * 9}, "at most 8 in one request, got 9; split longer lists", "input"),
        ({"input": ["a", 7]}, "token ids are not taken", "input[1]"),
        ({"input": [[1, 2]]}, "token ids are not taken", "input[0]"),
        ({"input": ["a", ""]}, "at least one word, got none; give one, or leave", "input[1]"),
        ({"input": "a" * 10_001}, "10,000 characters, got 10,001; shorten it", "input"),
        ({"input": {"text": 5}}, "valid string, got int", "input.text"),
        ({"input": [{"text": "a", SECRET: 1}]}, "known are text, video, video_url", "input[0]"),
        ({"input": [{"video": 5}]}, "valid string, got int", "input[0].video"),
        ({"input": [{"video": "a", "video_url": "b"}]}, "give one of video", "input[0]"),
        ({"input": [{"video": f"*{SECRET}*"}]}, "in base64, got 18", "input[0].video"),
        ({"input": [{"video": f"data:{SECRET}"}]}, "file in base64", "input[0].video"),
        ({"input": [{"video_url": f"https://{SECRET}/"}]}, "fetches no URLs", "input[0].video_url"),
        ({"input": "a", "model": SECRET}, "there is one model here, tiny", "model"),
        ({"input": "a", "model": 5}, "valid string, got int", "model"),
        ({"input": "a", "encoding_format": SECRET}, "'float' or 'base64'", "encoding_format"),
        ({"input": "a", "dimensions": 8}, "32 dimensions and are not", "dimensions"),
        ({"input": "a", "dimensions": "8"}, "valid integer, got str", "dimensions"),
        ({"input": "a", SECRET: 1}, "known are model, user, input", None),
    ],
)  # fmt: skip
def test_wrong_bodies(site, body, said, param):
    status = 404 if param == "model" and "one model" in said else 400
    status = 403 if "fetches" in said else status
    error, _ = refusal(site.ask("/v1/embeddings", body), status)
    assert said in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"input": NaN}',
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
        b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"input": ' + b'{"text":' * 100_000,
        b'{"input": [' + b"1," * 200_000 + b"1]}",
    ],
)
def test_what_is_no_json(site, content):
    told = {"Content_Type": "application/json; charset=utf-8"}
    error, _ = refusal(site.ask("/v1/embeddings", content, **told), 400)
    assert error["code"] in ("invalid_json", "invalid_value")


def test_other_types_and_encodings_are_refused(site):
    body = b'{"input": "a"}'
    error, _ = refusal(site.ask("/v1/embeddings", body, Content_Type="text/plain"), 415)
    assert error["code"] == "unsupported_type"
    told = {"Content_Type": "application/json", "Content_Encoding": "gzip"}
    assert refusal(site.ask("/v1/embeddings", body, **told), 415)[0]["code"] == (
        "unsupported_encoding"
    )


def test_a_route_that_is_none_names_those_that_are(site):
    for path in ("/", "/v1/nothing"):
        error, _ = refusal(site.ask(path), 404)
        assert error["code"] == "no_such_route"
        assert "POST /v1/embeddings" in error["message"]
    error, headers = refusal(site.ask("/v1/embeddings"), 405)
    assert (error["code"], headers["Allow"]) == ("wrong_method", "POST")
    assert error["message"] == "this route takes POST, got GET"


def zipped():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("bomb.mp4", bytes(1 << 20))
    return archive.getvalue()


def huge_picture():
    """A few bytes that claim a picture of 60,000 x 60,000."""
    head = b"P6\n60000 60000\n255\n"
    return head + bytes(100)


def test_what_is_no_video(site, videos):
    whole = videos[1].read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    for content in (
        whole[: len(whole) // 2],
        zipped(),
        huge_picture(),
        playlist,
        b"x",
        SECRET.encode(),
    ):
        error, _ = refusal(site.ask("/v1/videos/embeddings", content), 400)
        assert error["code"] == "unreadable_video"
        assert error["param"] == "body"
        assert "/tmp" not in error["message"]
    refusal(site.ask("/v1/videos/embeddings", b""), 400)
    told = {"input": ["a", {"video": base64.b64encode(zipped()).decode()}]}
    error, _ = refusal(site.ask("/v1/embeddings", told), 400)
    assert error["param"] == "input[1].video"
    # None of them has cost a process that decodes the next.
    assert site.ask("/v1/videos/embeddings", whole)[0] == 200


def test_limits_of_videos_hold(site, videos):
    limits = site.settings.video_limits
    assert limits.num_bytes == site.settings.max_body
    assert limits.num_pixels < 60_000**2
    cut = {"num_frames": 4, "image_size": 32, "spacing": FrameSpacing(seconds=0.1)}
    assert read_evaluated_clip(ClipJob(videos[0], cut, 60, limits)).shape == (4, 3, 32, 32)
    with pytest.raises(ClipError, match="frames of 64 x 64 pixels, the limit is 10"):
        read_evaluated_clip(ClipJob(videos[0], cut, 60, limits._replace(num_pixels=10)))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([("text", "a")], "there is no 'file'"),
        ([("file", "text and no file"), ("text", "a")], "there is no 'file'"),
        ([("file", b"x"), ("file", b"y"), ("text", "a")], "got 2 files for 1 texts"),
        ([("file", b"x")] * 9, "Too many files"),
        ([("text", "a")] * 10, "Too many fields"),
        ([("file", b"x")], "there is no 'text'"),
    ],
)
def test_wrong_forms(site, parts, said):
    error, _ = refusal(site.form("/match", *parts), 400)
    assert said in error["message"]


def test_a_form_that_ends_early(site):
    told = {"Content_Type": "multipart/form-data; boundary=xyz"}
    refusal(site.ask("/match", b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx", **told), 400)
    refusal(site.ask("/match", b"x", Content_Type="multipart/form-data"), 400)
