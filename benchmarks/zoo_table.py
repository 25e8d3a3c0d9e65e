"""Print the figures of the zoo's models on its test subjects as a Markdown table, as they were recorded when built.

Run `python benchmarks/zoo_table.py`; nothing is generated or trained.
"""

from a4a.evaluation.statistics import Estimate
from a4a.zoo.registry import MODELS, figures

ROWS = {
    "ceiling": "a fresh drawing (the ceiling)",
    "sd15-mini": "sd15-mini, text only (the floor)",
    "ip-adapter-plus-sd15-mini": "PTA (Plus) on sd15-mini",
    "ip-adapter-sd15-mini": "base family on sd15-mini",
    "pixart-mini": "pixart-mini, text only",
    "ip-adapter-plus-pixart-mini": "IP-Adapter* (Plus) on pixart-mini",
    "a4a-plus-pixart-mini": "**A4A (Plus) on pixart-mini**",
    "sdxl-mini": "sdxl-mini, text only",
    "ip-adapter-plus-sdxl-mini": "PTA-UM (Plus) on sdxl-mini",
    "a4a-plus-sdxl-mini": "**A4A (Plus) on sdxl-mini**",
    "sd3-mini": "sd3-mini, text only",
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
        accuracies = " / ".join(f"{entry[k]['mean']:.0%}" for k in ("scene", "place", "size"))
        samples = f"{entry['samples']:,}" if "adapter" in name or "a4a" in name else ""
        clip_image = f"{entry['clip_image']['mean']:.3f}"
        print(f"| {title} | {samples} | {Estimate(**identity)} | {found:.0%} | {clip_image} | {accuracies} |")
