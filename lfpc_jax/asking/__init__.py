"""One question about one picture, from its file to its pictures."""
