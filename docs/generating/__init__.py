"""What the site's reference is made of, read from the code when the site is built."""
