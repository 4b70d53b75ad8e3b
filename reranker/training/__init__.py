"""How the models are made: base, vocabulary, training data, fine-tuning, export. Needs the `train` extra."""
