"""Sources of small real firmware images, and the script that builds them; README.md tells about them."""
