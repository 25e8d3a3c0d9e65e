"""Nested settings are merged without losing anything."""

from a4a.utils.settings import did_you_mean, flat, merged, with_option


def test_a_change_touches_what_it_names_and_nothing_else():
    base = {"method": {"rounds": 0, "heads": 8}, "data": {"class_path": "A", "init_args": {"x": 1}}}
    changes = {"method": {"rounds": 2}, "data": {"class_path": "B"}}
    assert merged(base, changes) == {"method": {"rounds": 2, "heads": 8}, "data": {"class_path": "B"}}
    assert base["method"]["rounds"] == 0


def test_a_change_without_a_class_goes_to_the_class_that_is_there():
    base = {"data": {"class_path": "A", "init_args": {"x": 1}}, "method": "C"}
    assert merged(base, {"data": {"y": 2}, "method": {"z": 3}}) == {
        "data": {"class_path": "A", "init_args": {"x": 1, "y": 2}},
        "method": {"class_path": "C", "init_args": {"z": 3}},
    }
    assert merged(base, {"data": {"init_args": {"x": 5}}})["data"] == {"class_path": "A", "init_args": {"x": 5}}


def test_options_are_set_by_dotted_names_even_where_names_have_dots():
    settings = {"variants": {"rate 1.5": {}, "rate": {}}}
    settings = with_option(settings, "variants.rate 1.5.training.seed", 1)
    assert settings == {"variants": {"rate 1.5": {"training": {"seed": 1}}, "rate": {}}}
    assert flat(with_option({}, "a.b.c", 2)) == {"a.b.c": 2}


def test_the_closest_name_is_suggested_and_nothing_far():
    assert did_you_mean("promt", ["prompt", "model"], "--") == "; did you mean --prompt?"
    assert did_you_mean("xyz", ["prompt"]) == "."
