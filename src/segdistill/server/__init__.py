"""The viewer: one HTML file that holds a network and segments images in a browser tab."""
