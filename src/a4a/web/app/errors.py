"""Mistakes as one sentence on the page; everything else stays on the server."""

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from a4a.errors import InputError

BROKEN = "Something went wrong on the server; its log says what."


@contextmanager
def shown_as_sentences() -> Iterator[None]:
    """InputError becomes the page's error message; any other error is printed here, and told as BROKEN."""
    try:
        yield
    except gr.Error:
        raise
    except InputError as error:
        raise gr.Error(str(error), title="Not possible", print_exception=False) from error
    except Exception as error:
        traceback.print_exc()
        raise gr.Error(BROKEN, print_exception=False) from error


def sentences(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`shown_as_sentences` for an event that yields."""

    @functools.wraps(function)
    def wrapped(*args: Any) -> Iterator[Any]:
        with shown_as_sentences():
            yield from function(*args)

    return wrapped
