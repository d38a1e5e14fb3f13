"""Names of weights in the layouts that can be read, and what they are called here."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from simvtp.conversion.images import ImageFacts
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD

Towers = Literal["both", "video", "text"]
Names = tuple[tuple[str, str], ...]
NON_COMMERCIAL, APACHE, NOT_STATED = "CC-BY-NC-4.0", "Apache-2.0", "not stated"
OWN, BERT, DISTILBERT = "SimVTP model folder", "BERT", "DistilBERT"
PARTS = {
    "video_embedding": "tubelet embedding",
    "encoder": "encoder",
    "text_encoder": "text encoder",
    "pixel_decoder": "pixel decoder",
    "text_embedding": "text embedding",
    "word_decoder": "word head",
    "match_head": "match head",
}
"""Parts of the model by the first word of their tensors' names, and what to call them."""

_MLP: Names = (("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.2."))
_BLOCK: Names = (
    ("norm1.", "attention_norm."),
    ("norm2.", "mlp_norm."),
    ("attn.q_bias", "attention.query_bias"),
    ("attn.v_bias", "attention.value_bias"),
    ("attn.qkv.", "attention.qkv."),
    ("attn.proj.", "attention.projection."),
    *_MLP,
)
_TRANSFORMERS_BLOCK: Names = (
    ("layernorm_before.", "attention_norm."),
    ("layernorm_after.", "mlp_norm."),
    ("attention.attention.q_bias", "attention.query_bias"),
    ("attention.attention.query.bias", "attention.query_bias"),
    ("attention.attention.v_bias", "attention.value_bias"),
    ("attention.attention.value.bias", "attention.value_bias"),
    ("attention.attention.query.weight", "attention.qkv.weight[0]"),
    ("attention.attention.key.weight", "attention.qkv.weight[1]"),
    ("attention.attention.value.weight", "attention.qkv.weight[2]"),
    ("attention.output.dense.", "attention.projection."),
    ("intermediate.dense.", "mlp.0."),
    ("output.dense.", "mlp.2."),
)
_BERT_EMBEDDING: Names = (
    ("word_embeddings.", "words."),
    ("position_embeddings.", "positions."),
    ("token_type_embeddings.", "token_types."),
    ("LayerNorm.weight", "norm.weight"),
    ("LayerNorm.bias", "norm.bias"),
    # Files of the first versions say gamma and beta.
    ("LayerNorm.gamma", "norm.weight"),
    ("LayerNorm.beta", "norm.bias"),
)
_SAME: Names = (("", ""),)
_TIMM_BLOCK: Names = (*_BLOCK, ("ls1.gamma", "attention.scale"), ("ls2.gamma", "mlp.scale"))
_DINO_BLOCK: Names = (
    ("norm1.", "attention_norm."),
    ("norm2.", "mlp_norm."),
    ("layer_scale1.lambda1", "attention.scale"),
    ("layer_scale2.lambda1", "mlp.scale"),
    *_MLP,
    *(names for names in _TRANSFORMERS_BLOCK if names[0].startswith("attention.")),
)
_CLIP_BLOCK: Names = (
    ("layer_norm1.", "attention_norm."),
    ("layer_norm2.", "mlp_norm."),
    ("self_attn.q_proj.bias", "attention.query_bias"),
    ("self_attn.v_proj.bias", "attention.value_bias"),
    ("self_attn.q_proj.weight", "attention.qkv.weight[0]"),
    ("self_attn.k_proj.weight", "attention.qkv.weight[1]"),
    ("self_attn.v_proj.weight", "attention.qkv.weight[2]"),
    ("self_attn.out_proj.", "attention.projection."),
    *_MLP,
)
_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_KEY_BIAS = (r".*\.(key|k_proj)\.bias", "key biases cancel in the softmax")
_VIDEO = ("video_embedding", "encoder")


class Stem(NamedTuple):
    """How names begin there and here, `{n}` for the number of a block, and what may follow."""

    theirs: str
    ours: str
    rest: Names = _SAME


class Layout(NamedTuple):
    """One way to name the weights.

    Attributes:
        kind: what to call it.
        licence: of the published weights of this kind.
        parts: parts that cannot be missing.
        stems: names to take.
        ignored: patterns of names to leave out, and why.
        image: of a transformer for images, what it usually does; None for others.
    """

    kind: str
    licence: str
    parts: tuple[str, ...]
    stems: tuple[Stem, ...]
    ignored: tuple[tuple[str, str], ...] = ()
    image: ImageFacts | None = None

    def our_name(self, name: str) -> str | None:
        """What a tensor is called here; None for a name that this layout does not have."""
        for theirs, ours, rest in self.stems:
            match = re.match(re.escape(theirs).replace(r"\{n\}", r"(\d+)"), name)
            for before, after in rest if match else ():
                if match and name[match.end() :].startswith(before):
                    begin = ours.replace("{n}", match[1]) if match.groups() else ours
                    return begin + after + name[match.end() + len(before) :]
        return None

    def their_name(self, name: str) -> str:
        """What a tensor of ours is called there; the name itself if it has none."""
        for theirs, ours, rest in self.stems:
            match = re.match(re.escape(ours).replace(r"\{n\}", r"(\d+)"), name)
            for before, after in rest if match else ():
                if match and name[match.end() :].startswith(after):
                    begin = theirs.replace("{n}", match[1]) if match.groups() else theirs
                    return begin + before + name[match.end() + len(after) :]
        return name

    def why_ignored(self, name: str) -> str | None:
        """Why a tensor is left out; None if it is not on the list."""
        return next((why for pattern, why in self.ignored if re.fullmatch(pattern, name)), None)


def find_layout(names: Iterable[str], *, towers: Towers = "both") -> Layout | None:
    """The layout that these names are of, whatever the file is called; None for another.

    Args:
        names: names of a source's tensors.
        towers: what to take of a model with an encoder for video and another for text.
    """
    names = tuple(names)

    def any_begins(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if any_begins("video_embedding."):
        return _own()
    if any_begins("video_encoder."):
        return _fine_tuned_towers(towers)
    if any_begins("encoder.patch_embed.", "encoder.blocks."):
        return _pre_training(has_text=any_begins("text_embeddings.", "text_cls.", "vtm_head."))
    if any_begins("cls_token", "attn_pool.") or "blocks.0.attn.qkv.bias" in names:
        return _timm(has_pre_norm=any_begins("norm_pre."))
    for prefix in ("", "vision_model.", "vit.", "dinov2.", "dinov2_with_registers."):
        if any_begins(f"{prefix}embeddings.patch_embedding."):
            return _clip(prefix, has_class=any_begins(f"{prefix}embeddings.class_embedding"))
        if any_begins(f"{prefix}embeddings.cls_token"):
            is_dino = any(".layer_scale1." in name for name in names)
            has_registers = any_begins(f"{prefix}embeddings.register_tokens")
            return _image(prefix, is_dino=is_dino, has_registers=has_registers)
    if any_begins("patch_embed.", "blocks."):
        return _fine_tuned()
    if any_begins("videomae."):
        return _transformers("videomae.")
    if any_begins("embeddings.patch_embeddings."):
        return _transformers("")
    for prefix in ("bert.", "distilbert.", ""):
        if any_begins(f"{prefix}embeddings.word_embeddings."):
            return _bert(prefix, DISTILBERT if any_begins(f"{prefix}transformer.") else BERT)
    return None


def _own() -> Layout:
    stems = tuple(Stem(f"{part}.", f"{part}.") for part in PARTS)
    return Layout(OWN, NOT_STATED, _VIDEO, stems)


def _tower(prefix: str, encoder: str, *norms: str) -> tuple[Stem, ...]:
    return (
        Stem(f"{prefix}blocks.{{n}}.", f"{encoder}.transformer.blocks.{{n}}.", _BLOCK),
        *(Stem(f"{prefix}{norm}.", f"{encoder}.transformer.norm.") for norm in norms),
    )


def _tubelets(prefix: str) -> tuple[Stem, ...]:
    return (
        Stem(f"{prefix}patch_embed.proj.", "video_embedding.projection."),
        Stem(f"{prefix}pos_embed", "video_embedding.positions"),
    )


def _pre_training(*, has_text: bool) -> Layout:
    """The paper's pre-training file, whose video part is named as VideoMAE's."""
    video = (
        *_tubelets("encoder."),
        *_tower("encoder.", "encoder", "norm"),
        Stem("decoder.blocks.{n}.", "pixel_decoder.transformer.blocks.{n}.", _BLOCK),
        Stem("decoder.norm.", "pixel_decoder.transformer.norm."),
        Stem("decoder.head.", "pixel_decoder.head."),
        Stem("encoder_to_decoder.", "pixel_decoder.from_encoder."),
        Stem("mask_token", "pixel_decoder.mask_token"),
    )
    if not has_text:
        return Layout("VideoMAE pre-training", NON_COMMERCIAL, _VIDEO, video)
    text = (
        Stem("text_embeddings.", "text_embedding.", _BERT_EMBEDDING),
        Stem("text_cls.", "word_decoder.head."),
        Stem("vtm_head.", "match_head."),
    )
    parts = tuple(part for part in PARTS if part != "text_encoder")
    ignored = ((r"text_embeddings\.position_ids", "a count, no weights"),)
    return Layout("SimVTP pre-training", NON_COMMERCIAL, parts, (*video, *text), ignored)


def _fine_tuned_towers(towers: Towers) -> Layout:
    """The paper's fine-tuning file: an encoder for video, another one for text."""
    main = "text_encoder." if towers == "text" else "video_encoder."
    parts = ["video_embedding", "encoder", "text_embedding"]
    stems = [
        *_tubelets("video_encoder."),
        *_tower(main, "encoder", "fc_norm"),
        Stem("text_encoder.text_embeddings.", "text_embedding.", _BERT_EMBEDDING),
    ]
    ignored = [
        (r".*\.position_ids", "a count, no weights"),
        (r"video_encoder\.text_embeddings\..*", "never used: the video tower sees no text"),
        (r"text_encoder\.(patch_embed|pos_embed).*", "never used: the text tower sees no video"),
    ]
    if towers == "both":
        stems += _tower("text_encoder.", "text_encoder", "fc_norm")
        parts.append("text_encoder")
    else:
        other = "video" if towers == "text" else "text"
        why = f"the {other} tower; --towers both keeps it"
        ignored.append((rf"{other}_encoder\.(blocks|fc_norm)\..*", why))
    return Layout("SimVTP fine-tuning", NON_COMMERCIAL, tuple(parts), tuple(stems), tuple(ignored))


def _fine_tuned() -> Layout:
    stems = (*_tubelets(""), *_tower("", "encoder", "fc_norm", "norm"))
    ignored = ((r"head\..*", "the classes it was fine-tuned for"),)
    return Layout("VideoMAE fine-tuning", NON_COMMERCIAL, _VIDEO, stems, ignored)


def _transformers(prefix: str) -> Layout:
    """VideoMAE of transformers, 4.x and 5.x names, for pre-training or classes."""
    blocks, decoder = "encoder.transformer.blocks.{n}.", "pixel_decoder.transformer."
    stems = (
        Stem(f"{prefix}embeddings.patch_embeddings.projection.", "video_embedding.projection."),
        Stem(f"{prefix}encoder.layer.{{n}}.", blocks, _TRANSFORMERS_BLOCK),
        Stem(f"{prefix}layernorm.", "encoder.transformer.norm."),
        Stem("fc_norm.", "encoder.transformer.norm."),
        Stem("decoder.decoder_layers.{n}.", f"{decoder}blocks.{{n}}.", _TRANSFORMERS_BLOCK),
        Stem("decoder.norm.", f"{decoder}norm."),
        Stem("decoder.head.", "pixel_decoder.head."),
        Stem("encoder_to_decoder.", "pixel_decoder.from_encoder."),
        Stem("mask_token", "pixel_decoder.mask_token"),
    )
    # Versions around 5.10 give the keys a bias, too.
    ignored = (_KEY_BIAS, (r"classifier\..*", "the classes it was fine-tuned for"))
    return Layout("VideoMAE of transformers", NON_COMMERCIAL, _VIDEO, stems, ignored)


def _timm(*, has_pre_norm: bool) -> Layout:
    """Image transformers of timm, whose names DINOv2's own files have, too."""
    stems = (
        *_tubelets(""),
        Stem("cls_token", "encoder.extra_tokens.class"),
        Stem("reg_token", "encoder.extra_tokens.register"),
        Stem("register_tokens", "encoder.extra_tokens.register"),
        Stem("norm_pre.", "video_embedding.norm."),
        Stem("blocks.{n}.", "encoder.transformer.blocks.{n}.", _TIMM_BLOCK),
        Stem("fc_norm.", "encoder.transformer.norm."),
        Stem("norm.", "encoder.transformer.norm."),
    )
    ignored = (
        (r"(head|attn_pool)\..*", "its own pooling and head: here tokens are averaged"),
        (r"mask_token", "of its own pre-training"),
    )
    facts = ImageFacts(_HALF, _HALF, antialias=True, activation_is_known=False)
    if has_pre_norm:
        facts = facts._replace(mean=_CLIP_MEAN, std=_CLIP_STD, norm_eps=1e-5)
    return Layout("image transformer of timm", NOT_STATED, _VIDEO, stems, ignored, facts)


def _image(prefix: str, *, is_dino: bool, has_registers: bool) -> Layout:
    """ViT and DINOv2 of transformers, as `save_pretrained` names them."""
    stems = (
        Stem(f"{prefix}embeddings.patch_embeddings.projection.", "video_embedding.projection."),
        Stem(f"{prefix}embeddings.position_embeddings", "video_embedding.positions"),
        Stem(f"{prefix}embeddings.cls_token", "encoder.extra_tokens.class"),
        Stem(f"{prefix}embeddings.register_tokens", "encoder.extra_tokens.register"),
        Stem(
            f"{prefix}encoder.layer.{{n}}.",
            "encoder.transformer.blocks.{n}.",
            _DINO_BLOCK if is_dino else _TRANSFORMERS_BLOCK,
        ),
        Stem(f"{prefix}layernorm.", "encoder.transformer.norm."),
    )
    ignored = (
        _KEY_BIAS,
        (r".*embeddings\.mask_token", "of its own pre-training"),
        (r"(.*\.)?(pooler|classifier)\..*", "its own pooling and head: here tokens are averaged"),
    )
    if is_dino:
        facts = ImageFacts(IMAGENET_MEAN, IMAGENET_STD, antialias=has_registers)
        return Layout("DINOv2 of transformers", NOT_STATED, _VIDEO, stems, ignored, facts)
    facts = ImageFacts(_HALF, _HALF, norm_eps=1e-12)
    return Layout("ViT of transformers", NOT_STATED, _VIDEO, stems, ignored, facts)


def _clip(prefix: str, *, has_class: bool) -> Layout:
    """Vision towers of transformers' CLIP, and without a class token of its SigLIP."""
    stems = (
        Stem(f"{prefix}embeddings.patch_embedding.", "video_embedding.projection."),
        Stem(f"{prefix}embeddings.position_embedding.weight", "video_embedding.positions"),
        Stem(f"{prefix}embeddings.class_embedding", "encoder.extra_tokens.class"),
        Stem(f"{prefix}pre_layrnorm.", "video_embedding.norm."),
        Stem(f"{prefix}encoder.layers.{{n}}.", "encoder.transformer.blocks.{n}.", _CLIP_BLOCK),
        Stem(f"{prefix}post_layernorm.", "encoder.transformer.norm."),
    )
    ignored = (
        (r"(text_model|text_projection)\..*", "the text tower"),
        _KEY_BIAS,
        (r".*\.position_ids", "a count, no weights"),
        (
            r"(.*\.)?(head|visual_projection|classifier)\..*|logit_(scale|bias)",
            "its own pooling and head: here tokens are averaged",
        ),
    )
    if has_class:
        facts = ImageFacts(_CLIP_MEAN, _CLIP_STD, "quick_gelu", 1e-5)
        return Layout("CLIP of transformers", NOT_STATED, _VIDEO, stems, ignored, facts)
    facts = ImageFacts(_HALF, _HALF, "gelu_tanh")
    return Layout("SigLIP of transformers", NOT_STATED, _VIDEO, stems, ignored, facts)


def _bert(prefix: str, kind: str) -> Layout:
    stems = (Stem(f"{prefix}embeddings.", "text_embedding.", _BERT_EMBEDDING),)
    inside = re.escape(prefix)
    ignored = (
        (rf"{inside}embeddings\.(position_ids|token_type_ids)", "a count, no weights"),
        (rf"{inside}(encoder|transformer|pooler)\..*", "BERT's own transformer"),
        (r"(cls|classifier|pre_classifier|qa_outputs|vocab_\w+)\..*", "BERT's own heads"),
    )
    return Layout(kind, APACHE, ("text_embedding",), stems, ignored)
