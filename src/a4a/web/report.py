"""`a4a report`: one page from a folder of experiments and evaluations: curves, tables, claims, images, costs."""

from collections.abc import Iterator
from pathlib import Path

from a4a.errors import InputError
from a4a.evaluation.tables import Rows, markdown_table
from a4a.utils.files import atomic_write
from a4a.web.pages import data_url, render
from a4a.web.sections import Section, find_sections


def report(runs: Path, output: Path = Path("report"), title: str = "Results", grid_subjects: int = 8) -> None:
    """Make one self-contained HTML page and a Markdown file from all experiments and evaluations below a folder.

    Args:
        runs: Folder with outputs of `a4a experiment` and `a4a evaluate`.
        output: Folder for index.html, README.md and the images and plots that README.md shows.
        title: Title of the page.
        grid_subjects: Subjects in each image grid.
    """
    output = Path(output)
    sections = find_sections(Path(runs), grid_subjects)
    if not sections:
        raise InputError(
            f"{runs} holds no finished experiment or evaluation; run a4a experiment or a4a evaluate with an --output "
            f"below it."
        )
    page = render("report.html", title=title, sections=sections, data_url=data_url)
    with atomic_write(output / "index.html") as temporary:
        temporary.write_text(page)
    for section in sections:
        _write_files(section, output)
    with atomic_write(output / "README.md") as temporary:
        temporary.write_text("\n".join(_markdown(title, sections)))
    print(f"{len(sections)} sections are in {output / 'index.html'} and {output / 'README.md'}")


def _write_files(section: Section, output: Path) -> None:
    """The plots and the image grid, which Markdown can only link to."""
    for score, svg in section.plots.items():
        with atomic_write(output / f"{section.name}-{score}.svg") as temporary:
            temporary.write_text(svg)
    if section.images is not None:
        with atomic_write(output / f"{section.name}.png") as temporary:
            section.images.save(temporary, format="PNG")


def _markdown(title: str, sections: list[Section]) -> Iterator[str]:
    yield f"# {title}\n"
    summary: Rows = [[claim, v.verdict, s.title] for s in sections for claim, v in s.verdicts]
    if summary:
        yield "## In short\n"
        yield markdown_table([["claim", "verdict", "decided in"], *summary]) + "\n"
    for section in sections:
        yield from _markdown_section(section)


def _markdown_section(section: Section) -> Iterator[str]:
    yield f"## {section.title}\n"
    if section.description:
        yield section.description + "\n"
    for score in section.plots:
        yield f"![{section.name}-{score}]({section.name}-{score}.svg)\n"
    for rows in filter(None, section.tables):
        yield markdown_table(rows) + "\n"
    for claim, found in section.verdicts:
        yield f"- {claim} **{found.verdict}**" + (f" ({found.figures})" if found.figures else "")
    if section.images is not None:
        columns = ", ".join(section.columns)
        yield f"\n![{columns}]({section.name}.png)\n\nColumns: {columns}."
    yield f"\n{section.note}\n"
