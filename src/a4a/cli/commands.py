"""What the commands are, as plain data: `a4a --help` and `a4a COMMAND --help` read it and import nothing else.

tests/cli/test_help.py holds it against the functions: every option exists, every required one is named.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command: what it runs, what its help says, and how its options are read."""

    target: str
    """`module:function`, imported when the command runs."""
    summary: str
    options: dict[str, str]
    """What --help lists: an option with its placeholder, as in `--output FOLDER`, and one line about it."""
    example: str
    others: tuple[str, ...] = ()
    """Parameters of the function that --help leaves to --help-all."""
    positional: str | None = None
    """The parameter that needs no option: `a4a inspect PATH`."""
    config: str | None = None
    """`recipe`: --config names a YAML file with the options. `positional`: it names the positional parameter."""
    resume: str = "Nothing was written."
    """How to go on after Ctrl-C."""
    overrides: str | None = None
    """A command whose options may be given, too: they come on top of the recipe, as the parameter `changes`."""
    ignores: tuple[str, ...] = ()
    """Sections of a recipe that other commands read."""

    @property
    def parameters(self) -> set[str]:
        """Names of all parameters of the function."""
        listed = (option.split()[0].removeprefix("--").partition(".")[0] for option in self.options)
        return {name for name in (*listed, *self.others) if name not in ("config", "OPTION")}

    def load(self) -> Callable[..., Any]:
        """Imports the function."""
        module, _, function = self.target.partition(":")
        return getattr(import_module(module), function)


AGAIN = "The same command goes on where this one stopped."

COMMANDS = {
    "inspect": Command(
        target="a4a.cli.inspect:inspect",
        summary="Describe an adapter or a model: family, tokens, image encoder, attention sites and widths.",
        options={
            "--path PATH": "adapter file or folder, or diffusers pipeline: local, on the hub, or zoo:NAME",
            "--json": "print JSON instead of a table",
        },
        example="a4a inspect zoo:ip-adapter-sd15-mini",
        positional="path",
    ),
    "prepare": Command(
        target="a4a.data.prepare.run:prepare",
        summary="Check, crop, caption, encode and split images once, into shards that training reads.",
        options={
            "--config RECIPE": "YAML file with these options; those on the command line come on top",
            "--source CLASS": "where the images are: ImageFolder, SubjectFolders, WebDataset, ...",
            "--source.path FOLDER": "the folder of that source",
            "--output FOLDER": "for the shards, manifest.json and report.jsonl (what was left out, and why)",
            "--encode.model MODEL": "the model that the data are for: diffusers folder, hub name or zoo:NAME",
            "--encode.image_encoders.NAME PATH": "the adapter's CLIP vision model, under a name of your choice",
            "--crop.size PIXELS": "size of the encoded images; smaller ones are left out, or --crop.enlarge true",
            "--caption.model MODEL": "captions images that have none",
            "--split.validation SHARE": "share of the subjects that validate; --split.test likewise",
            "--keep_images SPLIT ...": "keep these splits' images, too (validation test): what methods are scored on",
            "--ray": "run the steps as Ray Data actors; RAY_ADDRESS names the cluster",
        },
        example="a4a prepare --source SubjectFolders --source.path my-photos --output runs/my-data \\\n"
        "      --encode.model zoo:pixart-mini --encode.image_encoders.clip zoo:clip-large/image_encoder",
        others=("check", "chunk", "workers"),
        config="recipe",
        resume=AGAIN,
    ),
    "plan": Command(
        target="a4a.transfer.plan:plan",
        summary="Estimate what a transfer needs: parameters, memory, largest batch, disk, time. Downloads no weights.",
        options={
            "--config RECIPE": "YAML file of a4a transfer, or of a4a experiment: what its variants share",
            "--gpu GB": "memory of one GPU (80)",
            "--processes N": "GPUs, one process each (1)",
            "--samples_per_second X": "as measured, of all processes together; without it the hours are estimated",
            "--size PIXELS": "of the training images, where the data are not there yet (the model's own size)",
            "--OPTION VALUE": "an option of a4a transfer, on top of the recipe: --training.batch_size 8, --data FOLDER",
            "--json": "print JSON with plain numbers instead of a table",
        },
        example="a4a plan --config recipes/sd15-to-pixart.yaml --gpu 24",
        others=("recipe", "changes"),
        positional="recipe",
        config="positional",
        overrides="transfer",
    ),
    "check": Command(
        target="a4a.transfer.check.run:check",
        summary="Try a recipe of a4a transfer out in minutes, before hours are paid for; stops at what is not as expected.",
        options={
            "--config RECIPE": "YAML file of a4a transfer with a section check, which says what to expect",
            "--output FOLDER": "for check.json and the images of every step (OUTPUT/check of the recipe)",
            "--subjects N": "held-out subjects that published adapters draw (20, or as the recipe says)",
            "--steps N": "optimizer steps that overfit a few training samples (500, or as the recipe says)",
            "--OPTION VALUE": "an option of a4a transfer, on top of the recipe: --training.batch_size 2, --data FOLDER",
        },
        example="a4a check recipes/miniature/transfer.yaml",
        others=("recipe", "changes"),
        positional="recipe",
        config="positional",
        resume="The same command starts the check again; what is encoded already is kept.",
        overrides="transfer",
    ),
    "transfer": Command(
        target="a4a.transfer.run:transfer",
        summary="Train an adapter for a model: transfer one made for another (A4A), or train one from scratch.",
        options={
            "--config RECIPE": "YAML file with these options; those on the command line come on top",
            "--model MODEL": "the upgraded model: diffusers folder, hub name or zoo:NAME",
            "--source ADAPTER": "the adapter to transfer; or several at once, each as --source.NAME ADAPTER",
            "--image_encoder PATH": "the adapter's CLIP vision model: folder or owner/repo/folder on the hub",
            "--data DATA": "a folder that a4a prepare made, or ImageFolderDataset with --data.path FOLDER",
            "--output FOLDER": "for the adapter (FOLDER/adapter), log.csv, sample images, scores and checkpoints",
            "--method CLASS": "A4AConfig (default), or IPAdapterConfig: an IP-Adapter from scratch",
            "--training.samples N": "training samples; also --training.batch_size, --training.seed, ...",
            "--objective.rates.mapping RATE": "learning rate; also --objective.rates.projection, ...",
            "--evaluation CLASS": "scores and images to log every --training.evaluate_every samples",
            "--init ADAPTER": "start from a trained adapter or checkpoint: another stage, other data, another rate",
            "--resume": "continue the run that --output holds",
            "--dry_run": "two steps on random weights of the right shapes; no download, no training",
        },
        example="a4a transfer --config recipes/sd15-to-pixart.yaml --data runs/my-data --output runs/mine",
        others=("precision", "cache"),
        config="recipe",
        ignores=("check",),
        resume="The same command with --resume continues from the last checkpoint.",
    ),
    "generate": Command(
        target="a4a.cli.generate:generate",
        summary="Draw every prompt with every reference image: PNG files and a grid.",
        options={
            "--adapter ADAPTER": "adapter or checkpoint folder, published IP-Adapter file, hub name or zoo:NAME",
            "--model MODEL": "the model that the adapter is for: diffusers folder, hub name or zoo:NAME",
            "--image FILE ...": "reference images",
            "--prompt TEXT ...": "prompts, each in quotes",
            "--output FOLDER": "for the images; files of the same names are replaced",
            "--scale X": "weight of the image prompt (1); 0 is the plain model",
            "--seed N": "seed of the first image of each prompt (0); the next ones count up",
            "--count N": "images per reference and prompt (1)",
            "--steps N": "denoising steps; the model's own default if not given",
            "--guidance X": "classifier-free guidance scale; the model's own default if not given",
            "--source NAME": "which of its sources an adapter of several is used with",
            "--combine WAY": "all images for one picture: concat, average, norm average, add or subtract",
            "--weights X ...": "of the images that are combined",
            "--mask FILE ...": "one for each image, white where it acts: all images in one picture",
            "--negative_image FILE": "what the pictures should not show",
            "--weight_type NAME": "spread of the scale over the sites: linear, ease in, style transfer, composition, ...",
            "--start X": "fraction of the steps after which the image prompt begins to act (0)",
            "--end X": "fraction of the steps after which it acts no longer (1)",
        },
        example="a4a generate --adapter zoo:a4a-plus-pixart-mini --model zoo:pixart-mini --image photo.png \\\n"
        '      --prompt "a small creature in the snow" --output pictures',
        others=("image_encoder", "height", "width"),
        config="recipe",
        resume="Finished images are in the output folder; the same command draws all of them again.",
    ),
    "push": Command(
        target="a4a.cli.push:push",
        summary="Put an adapter on the hub, with a model card that shows the pictures and scores of an evaluation.",
        options={
            "--adapter FOLDER": "adapter or checkpoint folder; of a checkpoint, what the trainer needs stays behind",
            "--repo OWNER/NAME": "on the hub; made where there is none",
            "--scores FOLDER": "output of a4a evaluate: its pictures, with their references, and its table",
            "--method NAME": "of that evaluation, the one of this adapter; not needed where it is alone",
            "--private": "make a new repository private",
            "--output FOLDER": "write what is uploaded here, to look at it; without --repo nothing is uploaded",
        },
        example="a4a push --adapter runs/mine/adapter --scores runs/mine-scores --method A4A --repo me/my-adapter",
        positional="adapter",
    ),
    "evaluate": Command(
        target="a4a.evaluation.evaluate:evaluate",
        summary="Let several methods draw the same task, score them, and write tables and image grids.",
        options={
            "--config RECIPE": "YAML file with these options; those on the command line come on top",
            "--task CLASS": "what is drawn: PreparedTask with --task.path of prepared data, FolderTask with --task.prompts, ...",
            "--methods.NAME CLASS": "a method: ImagePromptMethod with --methods.NAME.model and .adapter, ...",
            "--metrics LIST": "what is scored, for example [CLIPImageScore, CLIPTextScore]",
            "--output FOLDER": "for images, scores.csv, results.json and table.md",
            "--baseline NAME": "the method that the others are compared with, image by image",
            "--batch N": "images at a time (8)",
            "--seed N": "seed of the noise (0)",
        },
        example="a4a evaluate --config recipes/miniature/table1.yaml --output runs/table1",
        others=("grid_subjects", "title", "description", "paper", "claims"),
        config="recipe",
        resume=AGAIN,
    ),
    "experiment": Command(
        target="a4a.experiments.run:experiment",
        summary="Train every variant of a transfer with every seed, and score the adapters.",
        options={
            "--config RECIPE": "YAML file with title, recipe, variants, seeds, claims, savings, final scores",
            "--output FOLDER": "for the runs (FOLDER/VARIANT/seedN) and the scores (FOLDER/final)",
            "--title TEXT": "heading in the report",
            "--recipe.OPTION VALUE": "an option of a4a transfer for all variants: --recipe.training.samples N",
            "--variants.NAME.OPTION VALUE": "the same for one variant",
            "--seeds N ...": "training seeds (0)",
            "--only NAME ...": "train these variants alone",
        },
        example="a4a experiment --config recipes/miniature/figure7.yaml --output runs/figure7",
        others=("final", "scores", "description", "claims", "savings", "paper", "part"),
        config="recipe",
        resume=AGAIN,
    ),
    "report": Command(
        target="a4a.web.report:report",
        summary="Make one self-contained page from all experiments and evaluations below a folder.",
        options={
            "--runs FOLDER": "with outputs of a4a experiment and a4a evaluate",
            "--output FOLDER": "for index.html, README.md, their plots, and the curves as CSV (report)",
            "--title TEXT": "heading of the page",
            "--grid_subjects N": "subjects in each grid of images (8)",
        },
        example="a4a report runs --output runs/report",
        positional="runs",
    ),
    "x-adapter": Command(
        target="a4a.baselines.x_adapter_training:train_x_adapter",
        summary="Train X-Adapter's mapper between two U-Nets: a baseline that A4A is compared with.",
        options={
            "--config RECIPE": "YAML file with these options; those on the command line come on top",
            "--base MODEL": "the base model: diffusers folder, hub name or zoo:NAME",
            "--model MODEL": "the upgraded model",
            "--data CLASS": "training images at the upgraded model's size: ImageFolderDataset with --data.path",
            "--output FOLDER": "for the mapper (FOLDER/x_adapter), log.csv and checkpoints",
            "--learning_rate RATE": "of the mapper (1e-5)",
            "--training.samples N": "training samples; also --training.batch_size, --training.seed, ...",
            "--frozen DTYPE": "precision of the two models: float32 (default), bfloat16 or float16",
            "--gradient_checkpointing": "recompute the upgraded model's blocks: less memory, slower steps",
            "--resume": "continue the run that --output holds",
        },
        example="a4a x-adapter --base zoo:sd15-mini --model zoo:sdxl-mini --data a4a.zoo.WorldImages \\\n"
        "      --data.split train --data.subjects 4000 --output runs/x-adapter",
        others=("cache",),
        config="recipe",
        resume="The same command with --resume continues from the last checkpoint.",
    ),
    "demo": Command(
        target="a4a.web.demo:demo",
        summary="Transfer an adapter in miniature, live, about two minutes on two idle cores, and write a page about it.",
        options={
            "--output FOLDER": "for the page (index.html) and the run (demo)",
            "--samples N": "samples of the live transfer (3200)",
            "--creatures N": "training subjects (4000)",
            "--subjects N": "test subjects that are scored (48)",
            "--seed N": "seed of the live transfer (0)",
            "--full": "train the recorded models anew first (hours)",
        },
        example="a4a demo --output demo",
        resume="The same command starts the transfer again; what is encoded already is kept.",
    ),
    "web": Command(
        target="a4a.web.app.launch:web",
        summary="Serve a page in the browser that draws with an adapter; without options, with the zoo's.",
        options={
            "--model MODEL": "the upgraded model: diffusers folder, hub name or zoo:NAME",
            "--adapter ADAPTER": "adapter folder, published IP-Adapter file, hub name or zoo:NAME",
            "--image_encoder ENCODER": "the adapter's CLIP vision model (the one that the adapter names)",
            "--source NAME": "the source to draw with, of an adapter that has several",
            "--host ADDRESS": "where to listen (127.0.0.1: this machine alone); any other needs --auth",
            "--port N": "port (7860); 0 takes a free one",
            "--auth USER:PASSWORD": "what visitors must give; or a file with such a line for each of them",
            "--report FOLDER": "output of a4a report for the last tab (the runs recorded in this repository)",
        },
        example="a4a web --model runs/my-model --adapter runs/my-adapter/adapter",
        resume="Whatever visitors drew is gone.",
    ),
    "zoo list": Command(
        target="a4a.cli.zoo:list_",
        summary="List the miniature models, what each is, and the figures it was shipped with.",
        options={"--models FOLDER": "another zoo, as a4a zoo build makes it"},
        example="a4a zoo list",
    ),
    "zoo show": Command(
        target="a4a.cli.zoo:show",
        summary="Draw samples of a miniature text-to-image model, from prompts alone.",
        options={
            "--model NAME": "sd15-mini, sdxl-mini, pixart-mini or sd3-mini",
            "--output FILE": "PNG file (zoo.png)",
            "--count N": "images (24)",
            "--models FOLDER": "another zoo, as a4a zoo build makes it",
        },
        example="a4a zoo show pixart-mini --output samples.png",
        positional="model",
    ),
    "zoo build": Command(
        target="a4a.cli.zoo:build",
        summary="Train the miniature models from nothing, a stage at a time.",
        options={
            "--stages NAME ...": "stages to make (all); remove a model's folder to make it anew",
            "--recipe FILE": "YAML file, a stage a key",
            "--models FOLDER": "for the finished models",
            "--runs FOLDER": "for unfinished runs and cached encodings (runs/zoo)",
        },
        example="a4a zoo build --stages vae clip-large --models my-zoo",
        resume=AGAIN,
    ),
}
