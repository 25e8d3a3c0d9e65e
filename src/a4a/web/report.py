"""`a4a report`: one page from a folder of experiments and evaluations: images, curves, tables, claims, costs."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from a4a.errors import InputError
from a4a.evaluation.claims import FAILS, HOLDS, NOT_MEASURED, UNDECIDED
from a4a.evaluation.tables import Rows, markdown_table
from a4a.utils.files import atomic_write
from a4a.web.pages import WEBP, data_url, render
from a4a.web.sections import Section, find_sections

PART_TITLES = {"headline": "The main figures in detail", "figure": "Further figures", "ablation": "Ablations"}
SAVINGS_NOTE = (
    "Samples until the curve, made monotone and interpolated between recorded points, reaches that share of the score; "
    "95 % intervals over training seeds and subjects, of one seed over subjects alone."
)


def report(runs: Path, output: Path = Path("report"), title: str = "Results", grid_subjects: int = 8) -> None:
    """Make one self-contained HTML page and a Markdown file from all experiments and evaluations below a folder.

    Args:
        runs: Folder with outputs of `a4a experiment` and `a4a evaluate`.
        output: Folder for index.html, README.md, the images and plots that README.md shows, and the curves as CSV.
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
    leads = [section for section in sections if section.part == "headline"]
    page = render(
        "report.html",
        title=title,
        sections=sections,
        leads=leads,
        summary=_summary(sections),
        part_titles=PART_TITLES,
        savings_note=SAVINGS_NOTE,
        data_url=data_url,
    )
    with atomic_write(output / "index.html") as temporary:
        temporary.write_text(page)
    for section in sections:
        _write_files(section, output)
    with atomic_write(output / "README.md") as temporary:
        temporary.write_text("\n".join(_markdown(title, sections, leads)))
    print(f"{len(sections)} sections are in {output / 'index.html'} and {output / 'README.md'}")


def _summary(sections: Sequence[Section]) -> str:
    """How many claims hold, fail and are open, in words; empty without claims."""
    found = Counter(verdict.verdict for section in sections for _, verdict in section.verdicts)
    words = {HOLDS: "hold", FAILS: "do not hold", UNDECIDED: "cannot be told", NOT_MEASURED: "were not measured"}
    counts = [f"{found[verdict]} {word}" for verdict, word in words.items() if found[verdict]]
    return f"Of {sum(found.values())} claims {', '.join(counts)}." if counts else ""


def _write_files(section: Section, output: Path) -> None:
    """The plots and the image grid, which Markdown can only link to, and the curves as a table."""
    for score, svg in section.plots.items():
        with atomic_write(output / f"{section.name}-{score}.svg") as temporary:
            temporary.write_text(svg)
    images = {"": section.images, "-preview": section.preview if section.part == "headline" else None}
    for part, image in images.items():
        if image is not None:
            with atomic_write(output / f"{section.name}{part}.webp") as temporary:
                image.save(temporary, **WEBP)
    if len(section.curves) > 1:
        with atomic_write(output / f"{section.name}-curves.csv") as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows(section.curves)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _markdown(title: str, sections: Sequence[Section], leads: Sequence[Section]) -> Iterator[str]:
    yield f"# {title}\n"
    for section in leads:
        if section.images is not None:
            yield _markdown_images(section, "-preview")
    yield "".join(_markdown_plot(section, next(iter(section.plots))) for section in leads if section.plots)
    for section in leads:
        if section.savings:
            yield f"**{section.title}: samples that each method needs**\n\n{markdown_table(section.savings)}\n"
    if any(section.savings for section in leads):
        yield SAVINGS_NOTE + "\n"
    yield from _markdown_claims(sections)
    part = None
    for section in sections:
        if section.part != part:
            part = section.part
            yield f"## {PART_TITLES[part]}\n"
        yield from _markdown_section(section)


def _markdown_claims(sections: Sequence[Section]) -> Iterator[str]:
    rows: Rows = [
        [
            claim.description,
            f"**{found.verdict}**" + (f": {found.figures}" if found.figures else ""),
            claim.paper,
            s.title,
        ]
        for s in sections
        for claim, found in s.verdicts
    ]
    if rows:
        yield f"## Claims\n\n{_summary(sections)} An empty cell: the paper has no such figure.\n"
        yield markdown_table([["claim", "verdict", "the paper", "decided in"], *rows]) + "\n"


def _markdown_section(section: Section) -> Iterator[str]:
    yield f"### {section.title}\n"
    if section.description:
        yield section.description + "\n"
    plots = list(section.plots)[1:] if section.part == "headline" else list(section.plots)
    if plots:
        yield "".join(_markdown_plot(section, score) for score in plots) + "\n"
    if section.images is not None:
        yield _markdown_images(section)
    savings = [] if section.part == "headline" else section.savings
    for rows in filter(None, [savings, *section.tables]):
        yield markdown_table(rows) + "\n"
    csv_link = f" [Curves as CSV]({section.name}-curves.csv)." if len(section.curves) > 1 else ""
    yield f"{section.note}{csv_link}\n"


def _markdown_plot(section: Section, score: str) -> str:
    return f"![{section.title}, {score}]({section.name}-{score}.svg)\n"


def _markdown_images(section: Section, part: str = "") -> str:
    columns = ", ".join(section.columns)
    return f"![{columns}]({section.name}{part}.webp)\n\nColumns: {columns}.\n"
