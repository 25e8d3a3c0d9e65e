"""`a4a push`: an adapter on the hub, with a model card that shows pictures and scores."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from a4a.adapters.loading import find_config, load_adapter
from a4a.errors import InputError, first_line
from a4a.utils.files import atomic_write
from a4a.utils.hub import MODEL_WEIGHTS, resolve_zoo

GRID = "pictures.png"
"""The picture grid beside the model card."""


def push(
    adapter: str,
    repo: str | None = None,
    scores: Path | None = None,
    method: str | None = None,
    private: bool = False,
    output: Path | None = None,
) -> None:
    """Put an adapter on the hub: its weights, configuration and model card, and no checkpoint of the trainer.

    The card gets the pictures and the table of an evaluation. The pictures show the references, so mind whose they are.

    Args:
        adapter: Folder of an adapter that a4a saved, or zoo:NAME.
        repo: OWNER/NAME on the hub; it is made where there is none.
        scores: Output folder of a4a evaluate, for the card.
        method: The method of that evaluation whose pictures are shown; not needed where there is one alone.
        private: Make a new repository private.
        output: Write the folder here too, or here alone without repo.
    """
    if repo is None and output is None:
        raise InputError(
            "There is nowhere to put the adapter: give --repo OWNER/NAME, or --output FOLDER to look at it."
        )
    folder = Path(resolve_zoo(adapter)).expanduser()
    if not folder.is_dir() or find_config(folder, "config.json") is None:
        raise InputError(f"{adapter} is no folder of an adapter that a4a saved; give one with config.json and weights.")
    load_adapter(folder)  # an incomplete one is refused before anything is uploaded
    with TemporaryDirectory() as temporary:
        made = Path(temporary) / "adapter"
        _collect(folder, made)
        if scores is not None:
            _add_scores(made, Path(scores), method)
        if output is not None:
            with atomic_write(Path(output)) as target:
                shutil.copytree(made, target)
            print(f"The folder for the hub is in {output}.")
        if repo is not None:
            print(f"The adapter is at {_upload(made, repo, private)}; load it with from_pretrained({repo!r}).")


def _collect(folder: Path, made: Path) -> None:
    """Copies what an adapter consists of; a checkpoint's folder holds the state of the trainer as well."""
    made.mkdir()
    files = [folder / "config.json", *folder.glob(MODEL_WEIGHTS), *folder.glob("*.safetensors.index.json")]
    for file in [*files, *folder.glob("README.md")]:
        shutil.copy(file, made / file.name)


def _add_scores(made: Path, scores: Path, method: str | None) -> None:
    """Adds the pictures and the table of an evaluation to the model card."""
    try:
        results, table = json.loads((scores / "results.json").read_text()), (scores / "table.md").read_text()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{scores} is no finished output of a4a evaluate ({first_line(error)}); give the folder with results.json."
        ) from error
    methods = results["methods"]
    chosen = next(iter(methods)) if method is None and len(methods) == 1 else method
    if chosen not in methods:
        raise InputError(
            f"The evaluation in {scores} has the methods {', '.join(methods)}; give --method, the one of this adapter."
        )
    shutil.copy(scores / methods[chosen]["folder"] / "grid.png", made / GRID)
    readme = made / "README.md"
    card = readme.read_text() if readme.exists() else ""
    shown = f"![References in the first column, then what {chosen} draws of them]({GRID})"
    about = f"{results['description']}\n\n" if results["description"] else ""
    readme.write_text(f"{card.rstrip()}\n\n## Pictures and scores\n\n{about}{shown}\n\n{table}")


def _upload(folder: Path, repo: str, private: bool) -> str:
    """Where the folder is on the hub then."""
    hub = HfApi()
    try:
        name = hub.create_repo(repo, private=private, exist_ok=True).repo_id
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload an adapter of a4a")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"The hub did not take {repo} ({first_line(error)}); log in by `hf auth login` with a token that may write, "
            f"and give --repo OWNER/NAME."
        ) from error
    return f"{hub.endpoint}/{name}"
