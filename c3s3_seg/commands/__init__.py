"""The verbs: each parses, calls and shows. No logic; every heavy import is inside the verb that needs it."""
