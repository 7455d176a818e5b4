"""The runners that are compared. Each is a program: BROKER_URL CAPACITY."""
