"""The Hugging Face Hub, as its source needs it: requests, and walks listed ahead.

Knows nothing of sources or trees: vfs.sources.hf makes a store of it.
"""
