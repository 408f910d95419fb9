"""Teachers: clients of the language models that write the data, with retries and back-off."""
