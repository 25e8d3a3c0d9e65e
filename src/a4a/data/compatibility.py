"""Whether prepared data were encoded for a model and an adapter, by their manifest alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from a4a.encoders.base import Output
from a4a.errors import InputError
from a4a.utils.fingerprint import file_fingerprint

ENCODER_OPTIONS: dict[Output, str] = {"pooled": "encode.image_encoders", "tokens": "encode.token_encoders"}
"""The options of `a4a prepare` that make each kind of embedding."""


def choose_image_encoder(folder: Path, manifest: Mapping[str, Any], name: str | None) -> str | None:
    """The name of the image encoder whose embeddings are used; None where there are none.

    InputError where there is none of this name, or several and no name.
    """
    known: Mapping[str, Any] = manifest["embeds"] or {}
    listed = ", ".join(sorted(known))
    if name is None and len(known) > 1:
        raise InputError(
            f"{folder} has embeddings of {listed}; choose the references' with data.init_args.image_encoder."
        )
    if name is not None and name not in known:
        raise InputError(
            f"{folder} has no embeddings {name!r}, it has {listed or 'none'}; "
            "choose one of them or prepare the data again."
        )
    return name if name is not None else next(iter(known), None)


def choose_output(folder: Path, manifest: Mapping[str, Any], name: str | None, output: Output) -> str | None:
    """The name of the embeddings of this kind: `name` where they are, else the only others that are.

    InputError where several others are.
    """
    known: Mapping[str, Any] = manifest["embeds"] or {}
    of_kind = [other for other, shape in known.items() if (len(shape) == 2) == (output == "tokens")]
    if name in of_kind or not of_kind:
        return name  # where there are none, `check_encodings` says what is missing
    if len(of_kind) > 1:
        raise InputError(
            f"{folder} has several {output} embeddings ({', '.join(sorted(of_kind))}), of which one source takes one; "
            "prepare the data again with one image encoder for all sources."
        )
    return of_kind[0]


def check_encodings(
    folder: Path,
    manifest: Mapping[str, Any],
    embeds: str | None,
    model: str | Path,
    image_encoder: str | Path,
    encoder_output: Output,
) -> None:
    """InputError where the data were encoded otherwise than training needs.

    Args:
        folder: that `a4a prepare` made.
        manifest: of that folder.
        embeds: name of the image encoder whose embeddings are used.
        model: whose VAE and text encoders must have encoded the data.
        image_encoder: that must have encoded the references.
        encoder_output: what the adapter takes of it.
    """
    if embeds is None:
        raise InputError(
            f"{folder} was prepared without image embeddings; "
            f"prepare it again with encode.image_encoders: {{clip: {image_encoder}}}."
        )
    if embeds == "arcface":
        raise InputError(
            f"{folder} has image_encoder arcface, whose embeddings no command can generate with; "
            "choose one that encode.image_encoders named."
        )
    stored: Output = "tokens" if len(manifest["embeds"][embeds]) == 2 else "pooled"
    if stored != encoder_output:
        raise InputError(
            f"{folder} has {stored} embeddings by {embeds} but the adapter takes {encoder_output}; "
            "choose another image_encoder, or prepare the data again with "
            f"{ENCODER_OPTIONS[encoder_output]}: {{clip: {image_encoder}}}."
        )
    for option, name in {"encode.model": model, f"{ENCODER_OPTIONS[stored]}.{embeds}": image_encoder}.items():
        used = manifest["settings"].get(option)
        if used is not None and used["fingerprint"] != (fingerprint := file_fingerprint(name)):
            raise InputError(
                f"{folder} was prepared with {option} = {used['name']} ({used['fingerprint']}), "
                f"not {name} ({fingerprint}); prepare the data again for it."
            )
