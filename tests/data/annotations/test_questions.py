import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import (
    ManifestError,
    MissingVideosWarning,
    Question,
    QuestionSet,
    load_questions,
    with_known_answers,
)
from testing.data.annotations import Write

MSRVTT_QA = [
    {"answer": "couch", "category_id": 14, "id": 0, "question": "what is it?", "video_id": 7},
    {"answer": "cat", "category_id": 14, "id": 1, "question": "who sits?", "video_id": 6513},
    {"answer": "man", "category_id": 14, "id": 2, "question": "who sings?", "video_id": 7},
    {"answer": "cat", "category_id": 14, "id": 3, "question": "who runs?", "video_id": 6513},
    {"answer": "bat", "category_id": 14, "id": 4, "question": "who flies?", "video_id": 6513},
]
MSVD_QA = [
    {"answer": "someone", "id": 30933, "question": "who pours liquid?", "video_id": 2},
    {"answer": "man", "id": 30934, "question": "who pours a sauce?", "video_id": 1},
]
MSVD_MAPPING = "-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid2\n"
FRAME = (
    "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n"
    'tumblr_no73_250\twhat is in the "cone ?\tcookie\t0\tFRAMEQA1\t27138\t"a cookie .\n'
    "tumblr_nedt_400\thow many men ?\ttwo\t1\tFRAMEQA2\t2853\ttwo men .\n"
)
COUNT = (
    "gif_name\tquestion\tanswer\tvid_id\tkey\n"
    "tumblr_no73_250\tHow many times does the woman chew food ?\t4\tCOUNT1\t5\n"
    "tumblr_nedt_400\tHow many times does the man wave ?\t10\tCOUNT2\t16\n"
)
ACTION = (
    "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\n"
    "tumblr_no73_250\tWhat does she do 4 times ?\tflick\tjump\tchew food\tnod\tpat\t2\tACTION1\t5\n"
    "tumblr_nedt_400\tWhat does he do after ?\ta\tb\tc\td\te\t4\tTRANS4\t16\n"
)
GIFS = ("gifs/tumblr_no73_250.gif", "gifs/tumblr_nedt_400.mp4")


def load(source: Path, **settings: object) -> QuestionSet:
    root = source.parents[1] / "videos"
    return load_questions(source, root=root, **settings)  # pyright: ignore[reportArgumentType]


def files_of(questions: QuestionSet) -> list[str]:
    return [Path(one.path).name for one in questions.records]


def error_of(source: Path, **settings: object) -> str:
    with pytest.raises(ManifestError) as error:
        load(source, **settings)
    return str(error.value)


def test_msrvtt_qa(write: Write):
    source = write("train_qa.json", MSRVTT_QA, "video7.mp4", "sub/video6513.mp4", "vid7.avi")
    found = load(source)
    # The most frequent first, equally frequent ones in alphabetical order.
    assert found.answers == ("cat", "bat", "couch", "man")
    assert files_of(found) == ["video7.mp4", "video6513.mp4"]
    assert [one.captions for one in found.records] == [
        ("what is it?", "who sings?"),
        ("who sits?", "who runs?", "who flies?"),
    ]
    assert found.questions == (
        Question(0, "what is it?", 2),
        Question(1, "who sits?", 0),
        Question(0, "who sings?", 3),
        Question(1, "who runs?", 0),
        Question(1, "who flies?", 1),
    )
    few = load(source, num_answers=2)
    assert few.answers == ("cat", "bat")
    assert [one.answer for one in few.questions] == [-1, 0, -1, 0, 1]
    known = with_known_answers(few)
    assert [one.text for one in known.questions] == ["who sits?", "who runs?", "who flies?"]
    assert known.records is few.records


def test_other_splits_use_the_training_answers(write: Write):
    source = write("test_qa.json", MSRVTT_QA, "video7.mp4", "video6513.mp4")
    found = load(source, answers=("dog", "man", "cat"))
    assert found.answers == ("dog", "man", "cat")
    assert [one.answer for one in found.questions] == [-1, 2, 1, 2, -1]
    with pytest.raises(ValueError, match="none of the 5 questions has one of the 1 known"):
        with_known_answers(load(source, answers=("dog",)))
    with pytest.raises(ValueError, match="answers must be one or more, all different"):
        load(source, answers=("a", "a"))
    with pytest.raises(ValueError, match="num_answers must be at least 1, got 0"):
        load(source, num_answers=0)


def test_msvd_qa(write: Write):
    source = write("val_qa.json", MSVD_QA, "vid1.avi", "vid2.avi")
    assert files_of(load(source)) == ["vid2.avi", "vid1.avi"]
    write("youtube_mapping.txt", MSVD_MAPPING, "-7KMZQEsJW4_205_208.avi")
    assert files_of(load(source)) == ["-7KMZQEsJW4_205_208.avi", "vid1.avi"]
    write("youtube_mapping.txt", "-7KMZQEsJW4_205_208 vid2\n")
    assert "entry 2: vid1 is not in youtube_mapping.txt" in error_of(source)
    written = [{"question": "who?", "answer": "x", "video_id": "-7KMZQEsJW4_205_208"}]
    assert files_of(load(write("named.json", written))) == ["-7KMZQEsJW4_205_208.avi"]


def test_tgif_qa(write: Write):
    frames = load(write("Train_frameqa_question.csv", FRAME, *GIFS))
    assert files_of(frames) == [Path(name).name for name in GIFS]
    assert frames.answers == ("cookie", "two")
    # Quotes are characters like any other in these files.
    assert frames.questions[0] == Question(0, 'what is in the "cone ?', 0)
    counts = load(write("Total_count_question.csv", COUNT))
    assert counts.answers == tuple(str(number) for number in range(11))
    assert [one.answer for one in counts.questions] == [4, 10]
    actions = load(write("Train_action_question.csv", ACTION))
    assert actions.answers == ()
    assert actions.questions == (
        Question(0, "What does she do 4 times ?", 2, ("flick", "jump", "chew food", "nod", "pat")),
        Question(1, "What does he do after ?", 4, ("a", "b", "c", "d", "e")),
    )
    assert actions.num_options == 5
    assert counts.num_options == 1


def test_our_own_table(write: Write):
    text = 'path,question,answer\na.mp4,"What, now?",red\nsub/b.mp4,Where?,here\n'
    opened = load(write("q.csv", text, "a.mp4", "sub/b.mp4"))
    assert opened.answers == ("here", "red")
    assert opened.questions[0] == Question(0, "What, now?", 1)
    text = "path,question,answer,options\na.mp4,What?,red,red|green\na.mp4,Who?, dog ,a cat| dog\n"
    chosen = load(write("q.csv", text))
    assert chosen.questions == (
        Question(0, "What?", 0, ("red", "green")),
        Question(0, "Who?", 1, ("a cat", "dog")),
    )
    assert len(chosen.records) == 1


def test_questions_of_missing_videos(write: Write):
    source = write("train_qa.json", MSRVTT_QA, "video6513.mp4")
    assert "1 of 2 videos are not under" in error_of(source)
    with pytest.warns(MissingVideosWarning, match=r"'video7' \(entry 1\)"):
        found = load(source, missing="leave out")
    assert [one.clip for one in found.questions] == [0, 0, 0]
    # The vocabulary does not depend on which videos were downloaded.
    assert found.answers == ("cat", "bat", "couch", "man")


OPTIONS = "path,question,answer,options\n"
FAULTS = [
    ("hello\n", "which no known format does; give MSRVTT-QA"),
    ({"question": "x"}, "which no known format does"),
    ([], "it lists nothing"),
    ([{"question": "x", "video_id": 1}], "entry 1: it must be an object with answer"),
    ([{"question": "x", "answer": "y"}], "entry 1: it must be an object with video_id"),
    ([{"question": "x", "answer": "y", "video_id": -1}], "video_id must be a whole number, got -1"),
    ([{"question": "x", "answer": 3, "video_id": 1}], "answer must be a text, got 3"),
    ([{"question": " ", "answer": "y", "video_id": 1}], "question ' ' is empty"),
    ([{"question": "\ud800", "answer": "y", "video_id": 1}], "half a surrogate pair"),
    ([{"question": "x", "answer": "y", "video_id": "../a"}], "path '../a' leaves the root"),
    (COUNT.replace("\t4\t", "\t11\t"), "line 2: answer must be a number from 0 to 10, got '11'"),
    (COUNT.replace("\t4\t", "\tfour\t"), "answer must be a number from 0 to 10, got 'four'"),
    (ACTION.replace("\t2\t", "\t5\t"), "line 2: answer must be one of the options 0 to 4, got 5"),
    (ACTION.replace("\tflick", ""), "line 2: it has 9 cells, the header has 10"),
    (OPTIONS + "a.mp4,What?,blue,red|green\n", "line 2: answer must be one of the options"),
    (OPTIONS + "a.mp4,What?,red,red|red\n", "line 2: answer must be one of the options"),
    (OPTIONS + "a.mp4,What?,red,red||green\n", "line 2: option '' is empty"),
    (
        OPTIONS + "a.mp4,W?,red,red|blue\na.mp4,W?,red,red|blue|grey\na.mp4,W?,red,\n",
        "line 3: it has 3 options, line 2 has 2",
    ),
]


@pytest.mark.parametrize(("content", "expected"), FAULTS)
def test_faults_are_named(write: Write, content: object, expected: str):
    assert expected in error_of(write("annotation", content, "a.mp4"))


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.integers(1, 7))
def test_the_vocabulary_has_the_most_frequent_answers(
    tmp_path_factory: pytest.TempPathFactory, answers: list[str], num_answers: int
):
    folder = tmp_path_factory.mktemp("given")
    (folder / "video1.mp4").touch()
    rows = [{"question": "x", "answer": answer, "video_id": 1} for answer in answers]
    (folder / "qa.json").write_text(json.dumps(rows))
    found = load_questions(folder / "qa.json", num_answers=num_answers)
    counts = Counter(answers)
    assert len(found.answers) == min(num_answers, len(counts))
    left_out = set(counts) - set(found.answers)
    assert all(counts[one] <= counts[kept] for one in left_out for kept in found.answers)
    ties = [(-counts[answer], answer) for answer in found.answers]
    assert ties == sorted(ties)
    named = ["" if one.answer < 0 else found.answers[one.answer] for one in found.questions]
    assert named == [answer if answer in found.answers else "" for answer in answers]
