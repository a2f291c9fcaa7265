"""The vocabulary that the cloud and the devices share: it knows neither of them."""
