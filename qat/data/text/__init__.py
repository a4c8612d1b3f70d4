"""Text: sources of sentences, tagged words and questions, and the data module that makes batches of tokens."""
