"""From the command line to a picture, on the zoo's own models, and every kind of bad input."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import hf_hub_download
from PIL import Image

from a4a.cli.main import main

TRANSFER = [
    "transfer",
    "--config",
    "recipes/miniature/transfer.yaml",
    "--data.init_args.subjects",
    "8",
    "--training.batch_size",
    "4",
    "--evaluation",
    "null",
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture
def reference(tmp_path):
    from a4a.utils.images import to_pil
    from a4a.zoo.drawing import draw
    from a4a.zoo.world import Subjects, Views

    path = tmp_path / "reference.png"
    to_pil(draw(Subjects.sample(1, "test"), Views.sample(1, 1)))[0].save(path)
    return path


def test_a_recipe_gives_an_adapter_that_generates_images(tmp_path, reference, capsys):
    run = tmp_path / "run"
    assert main([*TRANSFER, "--training.samples", "16", "--output", str(run)]) == 0
    ending = capsys.readouterr().out.splitlines()[-3:]
    assert f"{run}/adapter" in ending[0] and "a4a generate --adapter" in ending[1] and "--resume" in ending[2]
    assert main(["inspect", str(run / "adapter"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (
        facts["kind"].startswith("A4A")
        and facts["sites"] == 8
        and facts["image encoder"] == "zoo:clip-large/image_encoder"
    )
    assert "transferred" in (run / "adapter" / "README.md").read_text()
    out = tmp_path / "pictures"
    arguments = [
        "generate",
        "--adapter",
        str(run / "adapter"),
        "--model",
        "zoo:pixart-mini",
        "--image",
        str(reference),
        "--output",
        str(out),
    ]
    arguments += [
        "--prompt",
        "a large creature in the middle, in a room",
        "a small creature on the left, in the snow",
        "--steps",
        "2",
        "--count",
        "2",
    ]
    assert main(arguments) == 0
    assert len(list(out.glob("reference00-*.png"))) == 4
    first = (out / "reference00-prompt00-seed0.png").read_bytes()
    assert Image.open(out / "grid.png").size == (5 * 64, 64)
    assert main([*arguments, "--scale", "0"]) == 0
    assert (out / "reference00-prompt00-seed0.png").read_bytes() != first


def test_several_images_are_drawn_into_one_picture(tmp_path, reference):
    other, drawn = tmp_path / "other.png", []
    Image.open(reference).convert("RGB").rotate(90).point(lambda v: 255 - v).save(other)
    masks = [tmp_path / "left.png", tmp_path / "right.png"]
    for mask, box in zip(masks, ((0, 0, 32, 64), (32, 0, 64, 64)), strict=True):
        image = Image.new("L", (64, 64))
        image.paste(255, box)
        image.save(mask)
    images = ["--image", str(reference), str(other)]
    arguments = ["generate", "--adapter", "zoo:a4a-plus-pixart-mini", "--model", "zoo:pixart-mini", *images]
    arguments += ["--prompt", "a large creature in a room", "--steps", "2"]
    ways = (["--mask", *map(str, masks)], ["--combine", "average", "--weights", "1", "2", "--end", "0.5"])
    for i, way in enumerate((*ways, ["--negative_image", str(other), "--weight_type", "ease out"])):
        out = tmp_path / str(i)
        assert main([*arguments, *way, "--output", str(out)]) == 0
        drawn.append((out / "reference00-prompt00-seed0.png").read_bytes())
        assert len(list(out.glob("reference0*.png"))) == (1 if i < 2 else 2)
    assert len(set(drawn)) == 3


def test_a_second_run_into_the_same_folder_needs_resume(tmp_path, capsys):
    arguments = [*TRANSFER, "--training.samples", "8", "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--training.samples", "12"]) == 0


def test_help_all_lists_every_option_with_its_type(capsys):
    assert main(["transfer", "--help-all"]) == 0
    text = capsys.readouterr().out
    for words in ("--method", "--objective.rates.projection", "--training.samples", "type: int"):
        assert words in text


@pytest.mark.parametrize(
    ("config", "option", "words"),
    [
        ("A4AConfig", "--method.rounds", "R, rounds of the upgraded space mapping"),
        ("IPAdapterConfig", "--method.tokens", "Image tokens N"),
    ],
)
def test_help_on_a_method_lists_its_options(capsys, config, option, words):
    assert main(["transfer", "--method.help", config]) == 0
    text = capsys.readouterr().out
    assert option in text and words in text


def test_inspect_distinguishes_models_and_adapters(capsys):
    assert main(["inspect", "zoo:sd15-mini"]) == 0
    assert "16" in capsys.readouterr().out
    assert main(["inspect", "zoo:ip-adapter-sd15-mini"]) == 0
    out = capsys.readouterr().out
    assert "base family" in out and "5 x 48" not in out.split("tokens")[0]


GENERATE = [
    "generate",
    "--adapter",
    "zoo:ip-adapter-sd15-mini",
    "--model",
    "zoo:sd15-mini",
    "--image",
    "[gone.png]",
    "--prompt",
    "[x]",
]
GENERATE += ["--output", "out"]
NUMBERS = [("count", "0"), ("steps", "0"), ("height", "60"), ("width", "60"), ("width", "-8")]

BAD = {
    "missing adapter": (["inspect", "gone.safetensors"], "gone.safetensors"),
    "unknown zoo model": (["inspect", "zoo:gone"], "gone"),
    "unknown option": ([*TRANSFER, "--method.round", "3"], "round"),
    "wrong type": ([*TRANSFER, "--method.rounds", "many"], "rounds"),
    "missing recipe": (["transfer", "--config", "gone.yaml"], "gone.yaml"),
    "missing model": ([*TRANSFER, "--model", "./gone"], "gone"),
    "missing data": ([*TRANSFER, "--data", "ImageFolderDataset", "--data.init_args.path", "gone"], "gone"),
    "missing encoder": ([*TRANSFER, "--image_encoder", "./gone"], "gone"),
    **{
        f"generate {name} {value}": ([*GENERATE, f"--{name}", value], f"--{name} is {value}") for name, value in NUMBERS
    },
    "generate with another number of masks": (
        [*GENERATE, "--mask", "a.png", "b.png"],
        "there are 2 --mask for 1 --image",
    ),
    "generate with masks and combine": ([*GENERATE, "--mask", "a.png", "--combine", "add"], "--combine is given, too"),
    "generate with weights alone": ([*GENERATE, "--weights", "1"], "give --combine, too"),
    "generate over no steps": ([*GENERATE, "--start", "0.5", "--end", "0.2"], "runs from 0.5 to 0.2"),
    "zoo that is not there": (["zoo", "list", "--models", "gone"], "no folder gone"),
    "no samples of the zoo": (["zoo", "show", "sd15-mini", "--count", "0"], "--count is 0"),
    "no such picture": (GENERATE, "gone.png"),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD.keys())
def test_bad_input_gives_one_sentence_and_exit_code_2(arguments, capsys):
    command, words = arguments
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("a4a: ") and words in said


def test_data_are_named_by_the_folder_that_prepare_made(tmp_path, capsys):
    assert main([*TRANSFER, "--data", "runs/gone", "--output", str(tmp_path)]) == 2
    assert "There is no runs/gone/manifest.json" in capsys.readouterr().err


def test_a_command_prints_no_warnings_of_other_libraries():
    words = [sys.executable, "-m", "a4a", "inspect", "zoo:a4a-plus-pixart-mini"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "zoo:" in done.stdout


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (["prepare", "--output", "x"], "same command goes on"),
        (["experiment", "--output", "x"], "same command goes on"),
        (["transfer", "--output", "x"], "--resume"),
        (["inspect", "x"], "Nothing was written"),
    ],
)
def test_ctrl_c_is_one_line_that_says_how_to_go_on(command, advice, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("a4a.cli.commands.Command.load", interrupted)
    assert main(command) == 130
    error = capsys.readouterr().err
    assert error.startswith("a4a: stopped") and error.count("\n") == 1 and advice in error


def test_ctrl_c_while_libraries_are_imported_is_one_line_too():
    script = """
import os, signal, threading
threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
from a4a.cli.main import run
run()
"""
    words = ["demo", "--output", "/dev/null/nowhere"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and "stopped" in done.stderr


def test_a_training_run_that_was_stopped_says_how_to_resume(capsys, monkeypatch):
    def stopped(*_):
        raise SystemExit(130)  # as the training loop does once it has saved a checkpoint

    monkeypatch.setattr("a4a.cli.commands.Command.load", stopped)
    assert main(["transfer", "--output", "x"]) == 130
    assert "--resume" in capsys.readouterr().err


def out_of_gpu_memory():
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB."
    )


def out_of_memory():
    torch.empty(2**60)


def not_on_the_hub():
    try:
        hf_hub_download("a4a-tests/nothing", "model.safetensors")  # the hub is offline while tests run
    except OSError as error:
        raise RuntimeError("The model could not be loaded.") from error  # as other libraries wrap it


@pytest.mark.parametrize(
    ("name", "fail", "words"),
    [
        ("transfer", out_of_gpu_memory, ["The GPU is out of memory (20.00 GiB more", "lower training.batch_size"]),
        ("generate", out_of_gpu_memory, ["lower --count"]),
        ("evaluate", out_of_gpu_memory, ["lower --batch"]),
        ("evaluate", out_of_memory, ["This machine is out of memory", "lower --batch"]),
        ("evaluate", not_on_the_hub, ["The hub did not give", "check the connection"]),
    ],
)
def test_a_run_that_memory_or_the_hub_fails_ends_with_one_sentence(name, fail, words, capsys, monkeypatch):
    monkeypatch.setattr("a4a.cli.commands.Command.load", lambda _: fail())
    assert main([name, "--output", "x"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("a4a: ") and "\n" not in said
    assert all(word in said for word in words)


def test_any_other_error_shows_its_traceback(monkeypatch):
    def broken(_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("a4a.cli.commands.Command.load", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["transfer", "--output", "x"])


def test_an_unknown_key_in_a_recipe_is_named(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: zoo:pixart-mini\nmethood: {rounds: 0}\n")
    assert main(["transfer", "--config", str(recipe)]) == 2
    assert "methood" in capsys.readouterr().err


def test_an_adapter_for_other_sites_names_the_first_that_differs(tmp_path, reference, capsys):
    arguments = [
        "generate",
        "--adapter",
        "zoo:ip-adapter-sd15-mini",
        "--model",
        "zoo:pixart-mini",
        "--image",
        str(reference),
    ]
    arguments += [
        "--prompt",
        "x",
        "--output",
        str(tmp_path / "out"),
        "--image_encoder",
        "zoo:clip-large/image_encoder",
    ]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "site 0" in said and "48" in said and "144" in said


def test_an_encoder_of_the_wrong_width_names_both(tmp_path, capsys):
    source = ["--source", "zoo:ip-adapter-sd15-mini"]  # both encoders have tokens of one width
    assert main([*TRANSFER, *source, "--image_encoder", "zoo:clip-small/image_encoder", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "128" in said and "64" in said


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path, reference, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = [
        "generate",
        "--adapter",
        "zoo:ip-adapter-sd15-mini",
        "--model",
        "zoo:sd15-mini",
        "--image",
        str(reference),
        "--steps",
        "1",
    ]
    arguments += [
        "--prompt",
        "x",
        "--output",
        str(tmp_path / "file" / "out"),
        "--image_encoder",
        "zoo:clip-large/image_encoder",
    ]
    assert main(arguments) == 2
    assert "file" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "reference.png"]


def test_the_command_itself_starts_and_exits_with_2():
    done = subprocess.run(
        [sys.executable, "-c", "from a4a.cli.main import run; run()", "inspect", "gone.bin"],
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0 and "gone.bin" in done.stderr
