"""Sign-in to the console, with a provider that says what a test wants."""
