"""Changes as they happen: products that come, change and go, one JSON line each, settled by version."""
