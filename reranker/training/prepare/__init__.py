"""Data for training: judgments, clicks and purchases become one set of judged queries, split by query."""
