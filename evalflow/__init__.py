"""evalflow keeps an LLM eval suite representative of production traffic."""

__version__ = "0.1.0"
