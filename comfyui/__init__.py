"""ComfyUI nodes for a4a. All modules but `nodes` can be imported without ComfyUI."""


async def comfy_entrypoint():
    """What ComfyUI calls to get the nodes."""
    from .nodes import A4AExtension  # needs ComfyUI

    return A4AExtension()
