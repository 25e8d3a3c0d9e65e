"""Small pieces of HTML that the tabs share."""

from html import escape


def bar(done: float, words: str) -> str:
    """A progress bar, from 0 to 1, with words beside it."""
    return (
        f'<div class="a4a-status"><progress max="1" value="{done:.3f}" aria-label="progress"></progress>'
        f"<span>{escape(words)}</span></div>"
    )


def note(words: str) -> str:
    """A quiet line of text, which screen readers say when it changes."""
    return f'<div class="a4a-status" role="status"><span>{escape(words)}</span></div>'


def heading(title: str, text: str) -> str:
    """What a tab is for."""
    return f'<div class="a4a-heading"><h2>{escape(title)}</h2><p>{escape(text)}</p></div>'
