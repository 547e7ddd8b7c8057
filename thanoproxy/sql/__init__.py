"""Text in, plain data out: encodings, tokens, the clauses that our statements are made of.  Nothing here sends or waits."""
