"""Pictures and captions, and their encodings, made once."""
