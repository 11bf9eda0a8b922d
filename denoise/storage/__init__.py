"""Any URI: files, listings and what --images may be."""
