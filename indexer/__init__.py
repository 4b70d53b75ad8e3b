"""Everything that talks to the OpenSearch cluster, and what all rooms share: errors, settings, terminal."""
