"""Google Drive, as its source and `egofs auth gdrive` need it: requests, credentials, walks, and names for titles.

Knows nothing of sources or trees: vfs.sources.gdrive makes a store of it.
"""
