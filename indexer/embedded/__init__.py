"""The inside of the embedded OpenSearch node: lock file, fetching, layout, Java and the process."""
