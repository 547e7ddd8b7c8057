"""One client and its upstream: start-up, the relay, and the state machine that mixes our statements into it."""
