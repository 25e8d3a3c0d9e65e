"""Image-prompt adapters: what is read, and what is made of it."""
