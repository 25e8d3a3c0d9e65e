import re

from a4a.cli.main import main


def test_the_page_stands_alone_and_shows_every_part(tmp_path):
    assert main(["demo", "--output", str(tmp_path), "--samples", "64", "--creatures", "32", "--subjects", "3"]) == 0
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("<svg") >= 1
    for words in (
        "The subject arrives",
        "after 64 samples",
        "PTA on its base",
        "PixArt, A4A live",
        "IP-Adapter*",
        "the ceiling",
        "recorded",
        "64 training samples",
    ):
        assert words in page, words
    pictures = page.count('src="data:image/webp')
    assert pictures > 3 * 5 + 3 * 4
    # a second demo starts anew: it never resumes
    log = (tmp_path / "run" / "log.csv").read_text()
    assert main(["demo", "--output", str(tmp_path), "--samples", "64", "--creatures", "32", "--subjects", "3"]) == 0
    again = (tmp_path / "run" / "log.csv").read_text()
    losses = [[row.split(",")[2] for row in text.splitlines()] for text in (log, again)]
    assert losses[0] == losses[1]
