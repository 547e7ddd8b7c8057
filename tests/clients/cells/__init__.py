"""The cells of the table of positions, played by each client of this folder; `script.py` says what a runner is given and gives back."""
