"""A new index for a catalogue, built beside the live one, examined, and put in its place."""
