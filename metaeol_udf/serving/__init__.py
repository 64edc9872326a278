"""The query side: one spec's vectors for programs that ask for them, from a server, an MLflow model, LangChain and LlamaIndex.

Each gives the vectors that a table of the same spec holds, and refuses another spec. Packages of other people are imported by the
module that needs them, and by no other.
"""
