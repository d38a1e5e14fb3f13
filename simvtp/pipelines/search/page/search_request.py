"""What the page, its link and programs ask for, in one form; what they are told."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self
from urllib.parse import parse_qsl, urlencode

from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

MOST_QUERY_CHARACTERS = 500
_Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MOST_QUERY_CHARACTERS)]
_Key = Annotated[str, StringConstraints(max_length=200, pattern=r"^[\w.:=-]*$")]

_IN_OUR_WORDS = {
    "extra_forbidden": "no such parameter; give query, like or upload",
    "model_attributes_type": "send a JSON object, with the header Content-Type: application/json",
}


class SearchRequest(BaseModel):
    """One search: by a text, by a moment of the index, or by an uploaded clip or image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: _Text = Field(default="", description="what to look for, in words")
    like: _Key = Field(default="", description="instead, the key of a moment: more like it")
    upload: _Key = Field(default="", description="instead, what POST /api/uploads gave for a clip")
    file: _Text = Field(default="", description="only files whose name holds this, in any case")
    caption: _Text = Field(
        default="", description="only moments whose caption holds this, in any case"
    )
    top: int = Field(default=12, ge=1, le=100, description="number of moments")
    words: bool = Field(default=False, description="captions with the query's words rank too")
    rerank: int = Field(
        default=0, ge=0, le=64, description="so many of the best the matching head puts in order"
    )

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        given = [name for name in ("query", "like", "upload") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give one of query, like and upload, got {' and '.join(given)}")
        if given and not self.query and (self.rerank or self.words):
            raise ValueError("rerank and words need a query in words")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.query or self.like or self.upload)

    @classmethod
    def from_link(cls, link: str) -> Self:
        """The search that a link's `?query=...` keeps.

        Raises:
            ValueError: it keeps none that may be asked for.
        """
        given = dict(parse_qsl(link.removeprefix("?")))
        return cls.model_validate({name: given[name] for name in cls.model_fields if name in given})

    def link(self) -> str:
        """The part of an address that keeps the search; `from_link` reads it."""
        return "?" + urlencode(self.model_dump(exclude_defaults=True))


def fault_of(error: Exception) -> str:
    """What is wrong with a request, on one line."""
    if isinstance(error, RequestValidationError):
        # Their places begin with the part of the request.
        return "; ".join(_fault(one["loc"][1:], one) for one in error.errors())
    if isinstance(error, ValidationError):
        return "; ".join(_fault(one["loc"], one) for one in error.errors())
    return str(error)


def _fault(place: Sequence[Any], fault: Mapping[str, Any]) -> str:
    said: str = _IN_OUR_WORDS.get(fault["type"]) or fault["msg"]
    return f"{'.'.join(map(str, place))}: {said}" if place else said


class FoundMoment(BaseModel):
    """One moment that was found."""

    file: str = Field(description="name below an indexed folder")
    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    score: float
    match: float | None = Field(
        description="where it was re-ranked, the probability that the query tells what it shows"
    )
    caption: str | None
    key: str = Field(description="names the moment, for `like`")
    video: str = Field(description="address of the file, which plays from the moment")
    thumbnail: str = Field(description="address of a picture of it")


class SearchAnswer(BaseModel):
    """What was found, best first."""

    moments: list[FoundMoment]
    seconds: float = Field(description="how long the search took")
    note: str | None = Field(description="why the scores may mean little; null where they do not")


class Refusal(BaseModel):
    """Why a request was not answered."""

    detail: str


class Uploaded(BaseModel):
    """A clip or an image that was taken as a query."""

    upload: str = Field(description="names it in searches, until the server ends or forgets it")
