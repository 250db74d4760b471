"""evalflow keeps an LLM eval suite representative of production traffic."""
