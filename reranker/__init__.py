"""Query and hits in, a better order out; and how its models are made and measured."""
