"""The route for programs: what it finds, what it serves, what it refuses."""

import asyncio
import io
import json
from urllib.parse import quote

import av
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from simvtp.data.clip_table import ByteSpan
from simvtp.pipelines.search.page import serve, uploads
from simvtp.pipelines.search.page.file_part import file_part
from testing.pipelines.page_videos import FILES, RATE, brightness

QUERIES = {file: query for file, _, query in FILES}


def found(site, **asked):
    status, told = site.search(**asked)
    assert status == 200, told
    return told["moments"]


def key_of(site, file):
    return found(site, query=QUERIES[file], top=1)[0]["key"]


def test_a_search_is_the_index_s_own(site, index, model):
    vector = model.encode_text(["a dog"])[0].detach()
    hits = index.search(vector, top=5)
    moments = found(site, query="a dog", top=5)
    told = [(one["file"], one["start"], one["end"], one["caption"], one["key"]) for one in moments]
    assert told == [(hit.file, hit.start, hit.end, hit.caption, hit.key) for hit in hits]
    assert [one["score"] for one in moments] == pytest.approx([hit.score for hit in hits])
    _, content = site.ask("/api/search?query=a+dog&top=5")
    assert json.loads(content)["moments"] == moments


def test_more_like_a_moment(site):
    key = key_of(site, "old.avi")
    moments = found(site, like=key, top=100)
    assert len(moments) == len(FILES) - 1
    assert key not in {one["key"] for one in moments}


@pytest.mark.parametrize(
    ("filters", "files"),
    [
        ({"file": "HOLIDAYS/"}, {"holidays/plain.mp4"}),
        ({"caption": "dog RUNS"}, {"holidays/plain.mp4"}),
        ({"file": "%"}, set()),
        ({"file": "' OR 1=1 --"}, set()),
        ({"file": "'\"&"}, {FILES[1][0]}),
        ({"file": "old", "caption": "dog"}, set()),
    ],
)
def test_filters_are_text(site, filters, files):
    assert {one["file"] for one in found(site, query="a dog", **filters)} == files


def test_only_words_can_be_re_ranked(site):
    moments = found(site, query=QUERIES["holidays/plain.mp4"], rerank=2, top=3)
    matches = {one["file"]: one["match"] for one in moments}
    assert 0 < matches["holidays/plain.mp4"] < 1
    assert None in matches.values()
    status, told = site.search(like=moments[0]["key"], rerank=2)
    assert status == 422
    assert "rerank and words need a query in words" in json.dumps(told)


def test_words_in_captions_count(site):
    assert found(site, query="secret", words=True)[0]["caption"] == "a secret"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give query, like or upload"),
        ({"query": "x" * 501}, "at most 500 characters"),
        ({"query": "x", "top": 101}, "less than or equal to 100"),
        ({"query": "x", "like": "y"}, "give one of query, like and upload, got query and like"),
        ({"query": "x", "colour": "red"}, "colour: no such parameter; give query, like or upload"),
        ({"like": "0" * 24}, "there is no moment"),
        ({"like": "' OR 1=1 --"}, "should match pattern"),
        ({"upload": "nothing"}, "the upload of this search is no longer there"),
    ],
)
def test_wrong_requests_are_told(site, asked, said):
    status, told = site.search(**asked)
    assert status == 422
    assert said in told["detail"]


@pytest.mark.parametrize(
    ("path", "sent", "said"),
    [
        ("/api/search?q=hello", {}, "q: no such parameter; give query, like or upload"),
        # As curl -d and curl -F send it.
        (
            "/api/search",
            {"body": '{"query": "a"}', "Content_Type": "application/x-www-form-urlencoded"},
            "send a JSON object, with the header Content-Type: application/json",
        ),
        (
            "/api/uploads",
            {"body": b"--x", "Content_Type": "multipart/form-data; boundary=x"},
            "send the file itself as the body, as curl --data-binary @FILE does",
        ),
    ],
)
def test_what_is_sent_in_another_form_is_told(site, path, sent, said):
    answer, content = site.ask(path, method="POST" if sent else "GET", **sent)
    assert (answer.status, json.loads(content)) == (422, {"detail": said})


def test_a_query_of_unknown_words_gets_a_note(site):
    assert site.search(query="a red circle moves to the left")[1]["note"] is None
    note = site.search(query="dog runs")[1]["note"]
    assert note.startswith("the vocabulary lacks most words of 'dog runs': the scores mean little")


def test_programs_find_a_description(site):
    _, content = site.ask("/openapi.json")
    described = json.loads(content)
    assert set(described["paths"]["/api/search"]) == {"get", "post"}
    assert described["components"]["schemas"]["SearchRequest"]["properties"]["query"]["maxLength"]
    assert site.ask("/docs")[0].status == 404


def test_a_video_is_served_in_ranges(site, made_video):
    path = f"/api/moments/{key_of(site, 'holidays/plain.mp4')}/video"
    content = made_video.read_bytes()
    answer, body = site.ask(path, Range="bytes=100-299")
    assert (answer.status, body) == (206, content[100:300])
    assert answer.headers["Content-Range"] == f"bytes 100-299/{len(content)}"
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert site.ask(path)[1] == content


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=0-", 206, slice(None)),
        ("bytes=3-5", 206, slice(3, 6)),
        ("bytes=8-99", 206, slice(8, None)),
        ("bytes=-4", 206, slice(-4, None)),
        ("bytes=10-", 416, slice(0)),
        ("bytes=5-3", 416, slice(0)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_video_in_a_shard_is_served_in_ranges(tmp_path, wanted, status, part):
    shard = tmp_path / "shard.tar"
    shard.write_bytes(b"before0123456789after")
    answer = file_part(shard, ByteSpan(6, 10), wanted=wanted, media_type="video/mp4", headers={})
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["content-range"] == "bytes */10"
        return
    expected = b"0123456789"[part]
    assert asyncio.run(content_of(answer)) == expected
    assert answer.headers["content-length"] == str(len(expected))


async def content_of(answer):
    return b"".join([piece async for piece in answer.body_iterator])


def test_a_thumbnail_is_a_picture(site):
    address = found(site, query="a dog", top=1)[0]["thumbnail"]
    assert Image.open(io.BytesIO(site.ask(address)[1])).size == (64, 64)


def test_files_that_browsers_do_not_play_are_encoded(site):
    answer, content = site.ask(f"/api/moments/{key_of(site, 'old.avi')}/cut")
    assert answer.status == 200
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        shown = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert len(shown) == pytest.approx(2 * RATE, abs=1)
    assert shown[0] == pytest.approx(brightness(3), abs=8)


@pytest.mark.parametrize("file", ["../../../../../../../../etc/passwd", "way out.mp4", "gone.mp4"])
@pytest.mark.parametrize("what", ["video", "cut"])
def test_only_files_below_the_roots_are_served(site, file, what):
    answer, content = site.ask(f"/api/moments/{key_of(site, file)}/{what}")
    assert answer.status in (404, 422)
    assert b"root:" not in content


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "holidays/plain.mp4", "x' OR '"]
)
def test_names_are_no_keys(site, name):
    assert site.ask(f"/api/moments/{quote(name, safe='')}/video")[0].status == 404


def upload(site, body):
    answer, content = site.ask("/api/uploads", method="POST", body=body)
    return answer.status, json.loads(content)


def test_a_clip_and_an_image_are_queries(site, made_video):
    status, told = upload(site, made_video.read_bytes())
    assert status == 200
    by_clip = found(site, upload=told["upload"])
    picture = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), brightness(4), np.uint8)).save(picture, "PNG")
    status, told = upload(site, picture.getvalue())
    assert status == 200
    assert len(found(site, upload=told["upload"])) == len(by_clip) == len(FILES)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no video at all",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        # A picture of 60,000 by 60,000 pixels, as its header says.
        b"BM" + (1 << 20).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little") + (60_000).to_bytes(4, "little") * 2
        + b"\x01\0\x18\0" + bytes(24),
    ],
    ids=["nothing", "text", "playlist", "drawing", "large"],
)  # fmt: skip
def test_hostile_uploads_are_refused(site, body):
    status, told = upload(site, body)
    assert status == 422
    assert "the upload" in told["detail"]
    assert "/tmp" not in told["detail"]


def test_an_upload_has_a_size_limit(site, tmp_path):
    most = uploads.MOST_UPLOAD_BYTES
    answer, content = site.ask(
        "/api/uploads", method="POST", body=b"", Content_Length=str(most + 1)
    )
    assert (answer.status, json.loads(content)) == (413, {"detail": "an upload may have 256 MiB"})

    # One that does not tell its size is ended where it is too large.
    parts = [{"type": "http.request", "body": bytes(most // 2), "more_body": True}] * 3
    request = Request({"type": "http", "headers": []}, iter_messages(parts))
    with pytest.raises(uploads.UploadTooLargeError, match="may have 256 MiB"):
        asyncio.run(uploads.receive_file(request, tmp_path / "upload"))


def iter_messages(messages):
    waiting = iter(messages)

    async def receive():
        return next(waiting)

    return receive


def test_only_this_machine_is_served():
    with pytest.raises(ValueError, match=r"host must be 127.0.0.1 or ::1, got '0.0.0.0'"):
        serve(None, host="0.0.0.0")


def test_a_port_that_is_taken(site):
    with pytest.raises(ValueError, match=f"port {site.port} of 127.0.0.1 cannot be used"):
        serve(None, port=site.port)
