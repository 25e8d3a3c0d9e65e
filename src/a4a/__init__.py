"""A4A: image-prompt adapters of one diffusion model, made to work on another."""
