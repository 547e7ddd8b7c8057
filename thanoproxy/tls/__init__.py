"""TLS on both legs: what the settings ask for, as `ssl` contexts; and what certificates say."""
