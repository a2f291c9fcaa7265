"""Who this device is: its key, its certificate, how it gets the first one and every one after it."""
