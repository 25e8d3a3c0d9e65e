"""Image-prompt adapters: from image embeddings to keys and values for attention sites (eq. 4 to 6, and A4A)."""
