"""The nouns of the field as frozen values, and their pure rules. No I/O, no clock, no randomness."""
