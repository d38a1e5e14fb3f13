"""The page itself, of Gradio's components: what is typed is searched, what is found is shown."""

from functools import partial
from importlib import resources
from pathlib import PurePath
from typing import Any, cast

import gradio as gr
from gradio.themes import Default

from simvtp.pipelines.search.demo import index_name
from simvtp.pipelines.search.page.cards import fault_html, moments_html, text
from simvtp.pipelines.search.page.search_request import (
    MOST_QUERY_CHARACTERS,
    SearchRequest,
    fault_of,
)
from simvtp.pipelines.search.page.service import BusyError, SearchService
from simvtp.printing import counted

# Candidates that the switch has put in order by the matching head.
_RERANKED = 16
_TOP = SearchRequest().top
_ASSETS = resources.files("simvtp.pipelines.search.page")
STYLE = _ASSETS.joinpath("page.css").read_text("utf-8")
_UPLOAD_SCRIPT = _ASSETS.joinpath("upload.js").read_text("utf-8")
_RESULTS_SCRIPT = _ASSETS.joinpath("results.js").read_text("utf-8")
_UPLOAD = """
<label class="drop" tabindex="0">
  <input type="file" accept="video/*,image/*" aria-label="Search by a clip or an image">
  <span class="said">or drop a clip or an image here, or click to choose one</span>
</label>
"""
_HINT = '<p class="note">Type what you are looking for, as a caption would say it.</p>'
# No fonts from elsewhere: those of the machine.
THEME = Default(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)


def search_page(service: SearchService) -> gr.Blocks:
    """The page of a search service."""
    with gr.Blocks(title="SimVTP search", analytics_enabled=False) as page:
        gr.HTML(_head(service), js_on_load=None)
        with gr.Row(elem_id="ask", equal_height=True):
            query = gr.Textbox(
                "",
                placeholder="a red circle shrinks while a small green ring bounces up and down",
                max_length=MOST_QUERY_CHARACTERS,
                show_label=False,
                container=False,
                max_lines=1,
                autofocus=True,
                scale=6,
                elem_id="query",
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=120)
        upload = gr.HTML(_UPLOAD, js_on_load=_UPLOAD_SCRIPT, elem_id="upload")
        with gr.Accordion("Filters and ranking", open=False):
            options = _options()
        found = gr.HTML(_HINT, js_on_load=_RESULTS_SCRIPT, elem_id="results")
        _connect(page, service, query, options, button, upload, found)
    return page


def _head(service: SearchService) -> str:
    index = service.index
    told = f"{counted(index.num_moments, 'moment')} of {counted(index.num_files, 'video')}"
    place, model = str(index.place), service.searcher.name
    named = (
        f'{kind} <b title="{text(full)}">{text(name)}</b>'
        for kind, full, name in (
            ("index", place, index_name(place)),
            ("model", model, PurePath(model).name or model),
        )
    )
    said = " · ".join((told, *named))
    return f'<header class="head"><h1>SimVTP search</h1><p>{said}</p></header>'


def _options() -> list[Any]:
    with gr.Row():
        file = gr.Textbox("", label="File name holds", max_length=MOST_QUERY_CHARACTERS)
        caption = gr.Textbox("", label="Caption holds", max_length=MOST_QUERY_CHARACTERS)
        top = gr.Slider(1, 100, value=_TOP, step=1, label="Number of results")
    with gr.Row():
        words = gr.Checkbox(
            label="Look for the words in captions, too",
            info="both rankings count",
        )
        rerank = gr.Checkbox(
            label="Re-rank with the matching head",
            info=f"slower: the best {_RERANKED} moments are decoded again",
        )
    return [file, caption, top, words, rerank]


def _connect(
    page: gr.Blocks,
    service: SearchService,
    query: gr.Textbox,
    options: list[Any],
    button: gr.Button,
    upload: gr.HTML,
    found: gr.HTML,
) -> None:
    def by_text(query: str, *chosen: Any) -> str:
        words, rerank = chosen[3:]
        ranking = {"words": words, "rerank": _RERANKED if rerank else 0}
        return _answer(service, query=query, **_filters(*chosen), **ranking)

    def by_moment(event: gr.EventData, *chosen: Any) -> tuple[str, str]:
        return "", _answer(service, like=event.key, **_filters(*chosen))

    def by_upload(event: gr.EventData, *chosen: Any) -> tuple[str, str]:
        return "", _answer(service, upload=event.name, **_filters(*chosen))

    settings: Any = {"api_visibility": "private", "show_progress": "minimal"}
    shown = [query, *options, found]
    at_start = partial(_by_link, service)
    page.load(at_start, query, shown, js="() => location.search", **settings)
    asking: Any = [query.submit, button.click, options[0].submit, options[1].submit]
    gr.on(asking, by_text, [query, *options], found, **settings)
    for event, answer in ((found.like, by_moment), (upload.sent, by_upload)):
        cast(Any, event)(answer, options, [query, found], **settings)


def _filters(file: str, caption: str, top: float, *_: bool) -> dict[str, Any]:
    return {"file": file, "caption": caption, "top": int(top)}


def _by_link(service: SearchService, link: str) -> list[Any]:
    """Values of the fields and what was found, for a page that was opened by a link."""
    try:
        asked = SearchRequest.from_link(link)
    except ValueError as error:
        return [*[gr.skip()] * 6, fault_html(fault_of(error))]
    if asked.is_empty:
        # Meanwhile somebody may have typed.
        return [gr.skip()] * 7
    fields = [asked.query, asked.file, asked.caption, asked.top, asked.words, asked.rerank > 0]
    return [*fields, _answer(service, **asked.model_dump())]


def _answer(service: SearchService, **asked: Any) -> str:
    try:
        request = SearchRequest.model_validate(asked)
        if request.is_empty:
            return _HINT
        answer = service.search(request)
        asked_for = service.in_words(request)
    except (ValueError, BusyError) as error:
        return fault_html(fault_of(error))
    return moments_html(answer, request, asked=asked_for, out_of=service.index.num_moments)
