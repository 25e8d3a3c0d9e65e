"""The zoo's held-out figures as Markdown: `python benchmarks/zoo_table.py`."""

from a4a.zoo.registry import MODELS, figures

ROWS = {
    "ceiling": "a fresh drawing (the ceiling)",
    "sd15-mini": "sd15-mini, text only (the floor)",
    "ip-adapter-sd15-mini": "PTA on sd15-mini",
    "pixart-mini": "pixart-mini, text only",
    "ip-adapter-pixart-mini": "IP-Adapter* on pixart-mini",
    "a4a-pixart-mini": "**A4A on pixart-mini**",
    "sdxl-mini": "sdxl-mini, text only",
    "ip-adapter-sdxl-mini": "PTA-UM on sdxl-mini",
    "a4a-sdxl-mini": "**A4A on sdxl-mini**",
}

if __name__ == "__main__":
    print(
        "| | samples | identity [95 %] | found of 100 | CLIP image | scene / place / size |\n|---|---|---|---|---|---|"
    )
    for name, title in ROWS.items():
        if not (MODELS / name / "figures.json").is_file():
            continue
        entry = figures(name)
        identity, found = entry["identity"], entry["retrieval"]["mean"]
        said = " / ".join(f"{entry[k]['mean']:.0%}" for k in ("scene", "place", "size"))
        samples = f"{entry['samples']:,}" if "adapter" in name or "a4a" in name else ""
        print(
            f"| {title} | {samples} | {identity['mean']:.3f} [{identity['low']:.3f}, {identity['high']:.3f}] | {found:.0%} | {entry['clip_image']['mean']:.3f} | {said} |"
        )
