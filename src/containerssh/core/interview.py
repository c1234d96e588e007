"""How much a webhook may ask a user at once, for both ends of it: the gateway and webhooks in Python."""

MOST_QUESTIONS = 16
"""In one prompt."""

LONGEST_TEXT = 4096
"""Characters of an instruction and of a question."""

LONGEST_STATE = 65_536
"""Characters of what the webhook wants to be told with the next question."""
