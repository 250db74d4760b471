"""The demo world: a seeded generator over a hand-written corpus, and the story that it tells."""
