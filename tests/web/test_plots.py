import xml.etree.ElementTree as ElementTree

from a4a.web.plots import KNOWN_COLOURS, Colours, Curve, Level, curves


def test_a_method_has_one_colour_on_all_plots_and_a_plot_has_no_colour_twice():
    colours = Colours()
    first = colours.of(["A4A", "R = 0", "R = 2"])
    second = colours.of(["R = 2", "layer by layer", "IP-Adapter*"])
    assert first["A4A"] == KNOWN_COLOURS["A4A"] and second["R = 2"] == first["R = 2"]
    assert len(set(first.values())) == len(set(second.values())) == 3


def test_a_plot_is_the_same_file_every_time_and_its_text_is_text():
    line = Curve("A4A & more", [0, 400, 800], [0.0, 0.4, 0.6], "#c8102e", low=[0, 0.3, 0.5], high=[0.1, 0.5, 0.7])
    levels = [Level("PTA on its base", 0.61, "#000"), Level("PTA-UM", 0.612, "#000")]
    once, again = (curves("To a transformer", "identity", [line], levels) for _ in range(2))
    assert once == again
    texts = {
        "".join(node.itertext()).strip(): node
        for node in ElementTree.fromstring(once).iter()
        if node.tag.endswith("text")
    }
    assert {"A4A & more", "PTA on its base", "PTA-UM", "To a transformer"} <= set(texts)
    heights = [texts[name].get("y") or texts[name].get("transform") for name in ("PTA on its base", "PTA-UM")]
    assert heights[0] != heights[1]  # close levels do not share a place
