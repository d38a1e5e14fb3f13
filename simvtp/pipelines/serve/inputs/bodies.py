"""What requests may say, as pydantic reads it; described at /openapi.json."""

import base64
import binascii
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from simvtp.pipelines.serve.refusals import Refusal

_DATA_URL = ";base64,"
_MOST_MARKS = 1 << 17


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextInput(_Body):
    """A caption."""

    text: str


class VideoInput(_Body):
    """A video, by its bytes or by where it is."""

    video: str | None = Field(
        default=None, description="the file in base64, also as data:video/mp4;base64,..."
    )
    video_url: str | None = Field(
        default=None, description="https://..., of a host that the server may fetch from"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.video is None) == (self.video_url is None):
            raise ValueError("give one of video, in base64, and video_url")
        return self

    def save(self, file: Path) -> None:
        """Write the bytes that were sent into a file.

        Raises:
            Refusal: they are no base64.
        """
        text = self.video or ""
        if text.startswith("data:"):
            text = text[text.find(_DATA_URL) + len(_DATA_URL) :] if _DATA_URL in text[:100] else "-"
        try:
            file.write_bytes(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Refusal(
                f"a video must be a file in base64, got {len(text):,} characters that are none; "
                "take base64.b64encode, or send the file as it is to /v1/videos/embeddings"
            ) from error


class Pair(VideoInput):
    """A caption and the video that it may be of."""

    text: str


def _kind_of_input(value: object) -> str | None:
    if isinstance(value, str):
        return "<text>"
    names = value.keys() if isinstance(value, dict) else ()
    if "text" in names:
        return "<caption>"
    return "<video>" if "video" in names or "video_url" in names else None


def _kind_of_inputs(value: object) -> str | None:
    return "<list>" if isinstance(value, list) else _kind_of_input(value)


_RULE = (
    'an input must be a text, {"text": "..."}, {"video": "base64"} or {"video_url": "https://"}; '
    "token ids are not taken, since every model has its own"
)
_ONE = (
    Annotated[str, Tag("<text>")]
    | Annotated[TextInput, Tag("<caption>")]
    | Annotated[VideoInput, Tag("<video>")]
)
Input = Annotated[
    _ONE,
    Discriminator(_kind_of_input, custom_error_type="input_kind", custom_error_message=_RULE),
]
_Inputs = Annotated[
    _ONE | Annotated[list[Input], Tag("<list>")],
    Discriminator(_kind_of_inputs, custom_error_type="input_kind", custom_error_message=_RULE),
]
Encoding = Literal["float", "base64"]


class _Asked(_Body):
    model: str | None = Field(default=None, description="as /v1/models tells; by default that one")
    user: str | None = Field(default=None, description="is not used")


class EmbeddingRequest(_Asked):
    """Texts and videos to embed."""

    input: _Inputs
    encoding_format: Encoding = Field(
        default="float", description="base64: little-endian 32-bit floats"
    )
    dimensions: int | None = Field(default=None, description="the model's width, if anything")

    @property
    def inputs(self) -> list[str | TextInput | VideoInput]:
        """One or several as a list."""
        return self.input if isinstance(self.input, list) else [self.input]


class MatchRequest(_Asked):
    """Pairs to be matched."""

    pairs: list[Pair]


_NOTE = "there where the vocabulary lacks most words of a text"


class Embedding(BaseModel):
    """One embedding, of unit norm."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Match(BaseModel):
    """How probable it is that a caption and a clip belong together."""

    object: Literal["match"] = "match"
    index: int
    score: float


class Usage(BaseModel):
    """What was computed: tokens of captions as far as they are read, tubelets of clips."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    """Embeddings in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    note: str | None = Field(default=None, description=_NOTE)


class MatchAnswer(BaseModel):
    """Scores in the order of the pairs."""

    object: Literal["list"] = "list"
    data: list[Match]
    model: str
    usage: Usage
    note: str | None = Field(default=None, description=_NOTE)


Body = TypeVar("Body", bound=_Body)


def parsed(kind: type[Body], content: bytes) -> Body:
    """A request's body; deep nesting, NaN and half characters are no JSON here.

    Raises:
        Refusal: it is not of the kind.
    """
    # Beside a few long texts a body of any size needs few: millions of values, or of faults in
    # them, would take many times its memory.
    marks = sum(map(content.count, (b",", b"[", b"{")))
    if marks > _MOST_MARKS:
        raise Refusal(
            f"a body in JSON may have {_MOST_MARKS:,} commas and brackets, got {marks:,}; send "
            "fewer inputs at a time",
            code="invalid_json",
        )
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        places = [place for place in fault["loc"] if not str(place).startswith("<")]
        # Names that were sent are not repeated.
        if fault["type"] == "extra_forbidden":
            known = ", ".join(_known_fields(kind, places[:-1]))
            message = f"there is a field that is not known here; known are {known}"
            raise Refusal(message, code="unknown_field", param=_param(places[:-1])) from error
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "json_invalid":
            message = f"the body must be JSON of a few levels, in UTF-8: {message}"
            raise Refusal(message, code="invalid_json") from error
        if fault["type"] == "missing":
            message = f"{places[-1]} is missing"
        else:
            # Of the value no more than its kind.
            message += f", got {type(fault['input']).__name__}"
        raise Refusal(message, param=_param(places)) from error


def _param(places: list[int | str]) -> str | None:
    text = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)
    return text.removeprefix(".") or None


def _known_fields(kind: type[BaseModel], places: list[Any]) -> list[str]:
    if not places:
        return list(kind.model_fields)
    parts = (Pair,) if kind is MatchRequest else (TextInput, VideoInput)
    return list(dict.fromkeys(name for part in parts for name in part.model_fields))


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The body of a route for OpenAPI, without references."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def whole(node: Any) -> Any:
        if isinstance(node, list):
            return [whole(part) for part in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return whole(definitions[node["$ref"].rpartition("/")[2]])
        return {name: whole(part) for name, part in node.items()}

    return {"required": True, "content": {"application/json": {"schema": whole(schema)}}}
