"""Images of any size, by tiles, and several devices."""
