"""What a request may ask of the cluster: limits on searches, what is off, and the indexes that stay hidden."""
