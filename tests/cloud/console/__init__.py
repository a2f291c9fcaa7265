"""The console, as somebody without scripts uses it: links are followed, forms are filled in by their labels."""
