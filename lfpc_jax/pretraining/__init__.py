"""Makes the miniature policy's starting checkpoint, supervised.

The real policy starts from a published model; the miniature starts from what
this package makes: first the vision tower alone learns to name what a token
shows (`tower`), then the whole policy learns to converse (`dialogues`). No
reward and nothing from the reinforcement-learning stages enters.
"""
